# edm.py: sends the e-mails that wait in a RabbitMQ queue
import smtplib
from email.message import EmailMessage

import msgspec

from holdfast import Daemon, Job, Reject, Retry


class Mail(msgspec.Struct):
    to: str
    subject: str
    text: str


class Email(Job):
    source = "amqp://guest:guest@127.0.0.1:5672/?queue=email&exchange=email&routing_key=email&identity=message_id"
    store = "sqlite:///edm.db"  # remembers what was sent, and keeps what could not be
    batch = 1  # a mail is no row: each is settled by itself, as soon as the server has taken it

    def setup(self):
        self.smtp = None

    def reload(self, settings):
        self.teardown()

    def teardown(self):
        if self.smtp is not None:
            self.smtp.close()
            self.smtp = None

    def handle(self, message):
        mail = message.as_type(Mail)
        letter = EmailMessage()
        letter["From"] = self.settings["smtp"]["sender"]
        letter["To"] = mail.to
        letter["Subject"] = mail.subject
        letter["Message-ID"] = f"<{message.id}@edm>"  # a mail that had to be sent twice is the same one
        letter.set_content(mail.text)
        try:
            self.server().send_message(letter)
        except smtplib.SMTPRecipientsRefused as error:
            code, words = next(iter(error.recipients.values()))
            raise (Reject if code >= 500 else Retry)(f"{code} {words.decode(errors='replace')}") from error
        except (smtplib.SMTPException, OSError) as error:
            self.teardown()
            raise Retry(f"the mail server is not to be had: {error}") from error

    def server(self):
        if self.smtp is None:
            smtp = self.settings["smtp"]
            self.smtp = smtplib.SMTP(smtp["host"], int(smtp["port"]), timeout=10)
        return self.smtp


if __name__ == "__main__":
    Daemon(Email).main()
