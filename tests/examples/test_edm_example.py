"""The e-mail daemon of examples/edm, on a real broker and a real SMTP server."""

from __future__ import annotations

import email
import json
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from aiosmtpd.controller import Controller

from holdfast.testing import DaemonProcess, eventually, free_port
from servers_kit import Services

EXAMPLE = Path(__file__).parents[2] / "examples" / "edm"
PATIENCE = 60.0  # seconds in which a mail server answers


class Inbox:
    """What the SMTP server was given. Refuses whoever is called nobody for good, and whoever is called later the first two times."""

    def __init__(self) -> None:
        self.mails: list[email.message.Message] = []
        self.refused: Counter[str] = Counter()

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802
        if address.startswith("nobody@"):
            return "550 there is nobody of that name"
        if address.startswith("later@") and self.refused[address] < 2:
            self.refused[address] += 1
            return "451 come again"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 OK"

    def ids(self) -> list[str]:
        return [str(mail["Message-ID"]) for mail in list(self.mails)]


@pytest.fixture
def smtp() -> Iterator[tuple[Inbox, int]]:
    inbox, port = Inbox(), free_port()
    controller = Controller(inbox, hostname="127.0.0.1", port=port, ready_timeout=PATIENCE)
    controller.start()
    yield inbox, port
    controller.stop()


class Edm:
    """The example in a folder of its own, as its README says."""

    def __init__(self, folder: Path, broker: str, port: int) -> None:
        self.broker = broker
        app = (EXAMPLE / "edm.py").read_text().replace("amqp://guest:guest@127.0.0.1:5672/", broker)
        toml = (EXAMPLE / "holdfast.toml").read_text().partition("[jobs.Email]\n")
        daemon = re.sub(r"(?m)^(name|app) = .*\n|^\[daemon\]\n|^#.*\n", "", toml[0])
        jobs = toml[2].replace("2s..10m", "1s..1s")
        self.daemon = DaemonProcess(folder, app, toml=f'{daemon}log = "state/{{date}}.log"\n[jobs.Email]\ncrash_limit = 1000\n{jobs}')
        shutil.copy(EXAMPLE / "edm.ini", folder)
        self.point_at(port)

    def point_at(self, port: int) -> None:
        ini = self.daemon.folder / "edm.ini"
        ini.write_text(re.sub(r"port = \d+", f"port = {port}", ini.read_text()))

    def send(self, *mails: tuple[str, str]) -> None:
        """(message id, recipient)"""
        connection = pika.BlockingConnection(pika.URLParameters(self.broker))
        channel = connection.channel()
        channel.confirm_delivery()
        for message_id, to in mails:
            body = json.dumps({"to": to, "subject": "Hello", "text": f"Dear {to}"}).encode()
            channel.basic_publish("email", "email", body, pika.BasicProperties(delivery_mode=2, message_id=message_id), mandatory=True)
        connection.close()


@pytest.fixture
def edm(tmp_path: Path, services: Services, smtp: tuple[Inbox, int]) -> Iterator[Edm]:
    edm = Edm(tmp_path, services.url("rabbitmq"), smtp[1])
    with edm.daemon:
        edm.daemon.start()
        yield edm
    connection = pika.BlockingConnection(pika.URLParameters(edm.broker))
    channel = connection.channel()
    channel.exchange_delete("email")
    for queue in ("email", "email.dropped", "email.retry.1"):
        channel.queue_delete(queue)
    connection.close()


def test_every_mail_is_sent_once_whatever_is_delivered_twice(edm: Edm, smtp: tuple[Inbox, int]) -> None:
    inbox, _port = smtp
    mails = [(f"m{number}", f"ann{number}@example.org") for number in range(20)]
    edm.send(*mails, *mails[:5])
    eventually(lambda: len(inbox.mails) >= 20, "all are sent")
    eventually(lambda: edm.daemon.status()["jobs"][0]["duplicates"] == 5, "the second ones are known")
    assert sorted(inbox.ids()) == sorted(f"<m{number}@edm>" for number in range(20))
    assert {str(mail["From"]) for mail in inbox.mails} == {"edm@example.org"}
    assert str(inbox.mails[0].get_payload()).startswith("Dear ann")


def test_a_refusal_is_a_dead_letter_and_what_may_go_later_goes_later(edm: Edm, smtp: tuple[Inbox, int]) -> None:
    inbox, _port = smtp
    edm.send(("a", "nobody@example.org"), ("b", "later@example.org"), ("c", "ann@example.org"))
    eventually(lambda: set(inbox.ids()) == {"<b@edm>", "<c@edm>"}, "those that can be sent are")
    eventually(lambda: edm.daemon.status()["jobs"][0]["dead"] == 1, "the other is a dead letter")
    assert "550 there is nobody of that name" in edm.daemon.run("failed", "list").stdout


def test_workers_that_die_send_no_mail_under_another_name(edm: Edm, smtp: tuple[Inbox, int]) -> None:
    inbox, _port = smtp
    killed: set[int] = set()
    for number in range(5):
        edm.send(*[(f"{number}.{mail}", "ann@example.org") for mail in range(10)])
        fresh = eventually(lambda: {worker["pid"] for worker in edm.daemon.workers()} - killed, "a worker that lives")
        killed.update(fresh)
        edm.daemon.kill(fresh.pop())
    wanted = {f"<{number}.{mail}@edm>" for number in range(5) for mail in range(10)}
    eventually(lambda: wanted <= set(inbox.ids()), "all are sent")
    assert set(inbox.ids()) == wanted


def test_another_mail_server_is_taken_in_place(edm: Edm, smtp: tuple[Inbox, int]) -> None:
    old, _port = smtp
    edm.send(("before", "ann@example.org"))
    eventually(lambda: old.ids() == ["<before@edm>"], "it is sent")
    pids = [worker["pid"] for worker in edm.daemon.workers()]
    new, port = Inbox(), free_port()
    controller = Controller(new, hostname="127.0.0.1", port=port, ready_timeout=PATIENCE)
    controller.start()
    try:
        edm.point_at(port)
        assert edm.daemon.run("reload", "--settings").returncode == 0
        edm.send(("after", "ann@example.org"))
        eventually(lambda: new.ids() == ["<after@edm>"], "it goes to the new one")
    finally:
        controller.stop()
    assert [worker["pid"] for worker in edm.daemon.workers()] == pids
    assert old.ids() == ["<before@edm>"]


def test_its_files_are_its_own(edm: Edm) -> None:
    logs = list((edm.daemon.folder / "state").glob("20*-*-*.log"))
    assert logs
    for file in [*logs, edm.daemon.folder / "edm.db"]:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
