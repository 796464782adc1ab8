# fee.py
from holdfast import Daemon, Job

class Fee(Job):
    source = "zmq+rep://127.0.0.1:5555"
    store = "sqlite:///fee.db"
    schema = """CREATE TABLE IF NOT EXISTS fee
                (ticket INTEGER, login TEXT, volume NUMERIC, status CHAR(1));
                CREATE INDEX IF NOT EXISTS fee_ticket ON fee (ticket)"""

    def handle(self, message, db):
        ticket, login, volume = message.text.split(",")
        db.execute("INSERT INTO fee (ticket, login, volume, status) VALUES (:t, :l, :v, 'N')",
                   {"t": ticket, "l": login, "v": volume})
        db.execute("UPDATE fee SET status = 'Y' WHERE ticket = :t AND status = 'N'", {"t": ticket})
        return "TRUE"

if __name__ == "__main__":
    Daemon(Fee).main()
