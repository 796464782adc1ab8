"""One trial: a real daemon on a real database, clients that never stop, something that goes wrong, and the oracle at the end."""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy

from holdfast.testing import DaemonProcess, Proxy, eventually, free_port
from holdfast.testing.crowd import Crowd
from holdfast.testing.databases import Databases, query

APP = """
import os
from holdfast import Daemon, Job

class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "{store}"
    schema = '''CREATE TABLE IF NOT EXISTS account (name VARCHAR(60), volume INTEGER, status CHAR(1));
                CREATE INDEX IF NOT EXISTS account_name ON account (name)'''
    processes = {processes}
    timeout = "{timeout}"

    def identity(self, message):
        return message.text

    def handle(self, message, db):
        db.execute("INSERT INTO account (name, volume, status) VALUES (:n, 1, 'N')", {{"n": message.text}})
        db.execute("UPDATE account SET status = 'Y' WHERE name = :n", {{"n": message.text}})
        if message.text == "poison":
            os.abort()

if __name__ == "__main__":
    Daemon(Add).main()
"""


@dataclass
class Result:
    """A line of the table. Silence is the longest time in which nobody got an answer, in seconds."""

    fault: str
    server: str
    messages: int = 0
    lost: int = 0
    doubled: int = 0
    strangers: int = 0
    refused: int = 0
    unanswered: int = 0
    dead: int = 0
    silence: float = 0.0
    note: str = ""

    @property
    def good(self) -> bool:
        return bool(self.messages) and not (self.lost or self.doubled or self.strangers or self.refused or self.unanswered or self.dead)


def table(results: list[Result]) -> str:
    """All lines, for people."""
    head = f"{'fault':24}{'server':12}{'messages':>9}{'lost':>6}{'doubled':>9}{'dead':>6}{'unanswered':>12}{'silence s':>11}  "
    lines = [head]
    for r in results:
        line = f"{r.fault:24}{r.server:12}{r.messages:9}{r.lost:6}{r.doubled:9}{r.dead:6}{r.unanswered:12}{r.silence:11.1f}  {r.note}"
        lines.append(line if r.good else f"{line}  NOT GOOD: {r.strangers} strangers, {r.refused} refused")
    return "\n".join(lines)


def ordinary_user(url: str) -> dict[str, str]:
    """One with no rights but those on this database; the given one may write to a server that is read-only."""
    name = sqlalchemy.make_url(url).database
    query(url, "CREATE USER IF NOT EXISTS daemon IDENTIFIED BY 'daemon'", f"GRANT ALL ON `{name}`.* TO daemon")
    return {"username": "daemon", "password": "daemon"}


class Trial:
    """A daemon behind a proxy, and its load."""

    def __init__(self, kind: str, databases: Databases, services: Any, folder: Path, **more: Any) -> None:
        self.kind = kind
        self.services = services
        self.url = databases.make(kind)
        place = sqlalchemy.make_url(self.url)
        assert place.host
        assert place.port
        self.proxy = Proxy(place.host, place.port)
        plain = {"sslmode": "disable"} if kind == "postgresql" else {"ssl": "false"}
        place = place.set(port=self.proxy.port, **(ordinary_user(self.url) if kind == "mariadb" else {}))
        self.store = place.update_query_dict(plain).render_as_string(hide_password=False)
        self.port = free_port()
        values = {"processes": 2, "timeout": "6s", "store": self.store, **more}
        self.daemon = DaemonProcess(folder, APP.format(port=self.port, **values), environ=more.get("environ"))
        self.note = ""

    def answered(self, clients: Crowd, more: int) -> None:
        """Until so many more answers have come."""
        wanted = clients.answered + more
        eventually(lambda: clients.answered >= wanted, f"{more} answers", 90)

    def judge(self, fault: str, clients: Crowd) -> Result:
        """The oracle: answered TRUE is one row in its final status, and there is no other row."""
        rows = query(self.url, "SELECT name, status, count(*) FROM account GROUP BY name, status")
        count: Counter[str] = Counter()
        for name, _status, number in rows:
            count[name] += number
        final = {name for name, status, _ in rows if status == "Y"}
        true = {name for name, answers in clients.answers.items() if answers == {b"TRUE"}}
        return Result(
            fault,
            self.kind,
            len(clients.answers),
            lost=len(true - final),
            doubled=sum(number > 1 for number in count.values()),
            strangers=len(set(count) - true - clients.unanswered),
            refused=len(clients.answers) - len(true),
            unanswered=len(clients.unanswered),
            dead=int(query(self.url, "SELECT count(*) FROM holdfast_dead")[0][0]),
            silence=clients.silence,
            note=self.note,
        )


@contextmanager
def trial(kind: str, databases: Databases, services: Any, **more: Any) -> Iterator[Trial]:
    """A trial whose daemon runs; everything is ended and removed behind it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        one = Trial(kind, databases, services, Path(name), **more)
        try:
            with one.daemon:
                one.daemon.start()
                yield one
            assert not one.daemon.processes(), "something is left of the daemon"
        finally:
            one.proxy.close()


def every(seconds: float, stop: threading.Event, harm: Any) -> threading.Thread:
    """Do harm at intervals until stopped."""

    def work() -> None:
        while not stop.wait(seconds):
            harm()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
