# booking.py: one row for each message of a queue, and which host has written it
import time

from holdfast import Daemon, Job


class Booking(Job):
    source = "amqp://guest:guest@mq1,mq2,mq3/?queue=bookings&identity=message_id&heartbeat=2"
    store = "mysql://www:${DB_PASSWORD}@db/example"
    schema = "CREATE TABLE IF NOT EXISTS booking (number INTEGER, host VARCHAR(20), handled_at DOUBLE PRECISION)"  # no key: two would show

    def handle(self, message, db):
        row = {"n": int(message.text), "h": self.settings["host"]["name"], "t": time.time()}
        db.execute("INSERT INTO booking (number, host, handled_at) VALUES (:n, :h, :t)", row)


if __name__ == "__main__":
    Daemon(Booking).main()
