"""A daemon that consumes a queue of a real broker, through a proxy that can cut, and the oracle."""

from __future__ import annotations

import re
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika

from holdfast.testing import DaemonProcess, Proxy, eventually
from servers_kit import Services

APP = """
import os, time
from holdfast import Daemon, Job, Reject, Retry

class Add(Job):
    source = "{source}"
    store = "{store}"
    schema = "CREATE TABLE IF NOT EXISTS account (name VARCHAR(60), volume INTEGER)"

    def handle(self, message, db):
        word, _, rest = message.text.partition(" ")
        if word == "fails" and message.attempt < int(rest.split()[0]):
            raise ValueError("not yet")
        if word == "reject":
            raise Reject("no good")
        if word == "segv":
            os.abort()
        if word == "block":
            open(rest + ".began", "w").close()
            while not os.path.exists(rest):
                time.sleep(0.005)
        db.execute("INSERT INTO account VALUES (:n, 1)", {{"n": message.id}})

if __name__ == "__main__":
    Daemon(Add).main()
"""


class Broker:
    """What a test does at the broker itself, on a connection of its own for each call."""

    def __init__(self, url: str) -> None:
        self.url = url
        place = urlsplit(url)
        assert place.hostname
        assert place.port
        self.host, self.port = place.hostname, place.port

    @contextmanager
    def channel(self) -> Iterator[Any]:
        parameters = pika.URLParameters(self.url)
        parameters.heartbeat = 0  # nobody answers them while the test does something else
        connection = pika.BlockingConnection(parameters)
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def publish(self, queue: str, bodies: Iterable[bytes], prefix: str = "m", **properties: Any) -> list[str]:
        """Confirmed, with message ids, which are returned."""
        ids = []
        with self.channel() as channel:
            channel.confirm_delivery()
            for number, body in enumerate(bodies):
                ids.append(f"{prefix}{number}")
                how = pika.BasicProperties(delivery_mode=2, message_id=ids[-1], **properties)
                channel.basic_publish("", queue, body, how, mandatory=True)
        return ids

    def depth(self, queue: str) -> int:
        """Messages that are ready in the queue."""
        with self.channel() as channel:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

    def remove(self, queue: str) -> None:
        with self.channel() as channel:
            for name in (queue, f"{queue}.dropped", *(f"{queue}.retry.{seconds}" for seconds in (1, 2, 4))):
                channel.queue_delete(name)


class Stage:
    """A daemon on a queue of its own. Only with a short `heartbeat` do it and the broker leave each other when one of them stands still."""

    def __init__(
        self, folder: Path, broker: Broker, *, toml: str = "", query: str = "", store: str = "", app: str = APP, heartbeat: int = 600
    ) -> None:
        self.broker = broker
        self.queue = f"q{uuid.uuid4().hex[:10]}"
        self.proxy = Proxy(broker.host, broker.port)
        self.store = store or f"sqlite:///{folder}/add.db"
        self.database = folder / "add.db"
        source = f"amqp://guest:guest@127.0.0.1:{self.proxy.port}/?queue={self.queue}&heartbeat={heartbeat}&identity=message_id{query}"
        self.daemon = DaemonProcess(folder, app.format(source=source, store=self.store), toml=toml)

    def close(self) -> None:
        with self.daemon:
            pass
        self.proxy.close()
        self.broker.remove(self.queue)

    def effects(self) -> Counter[str]:
        """How often each message has had its effect."""
        if not self.database.exists():
            return Counter()
        connection = sqlite3.connect(self.database)
        try:
            return Counter(dict(connection.execute("SELECT name, sum(volume) FROM account GROUP BY name").fetchall()))
        finally:
            connection.close()

    def done(self, ids: Iterable[str], patience: float = 90.0) -> None:
        """All of these have had their effect, each once, and nothing else has."""
        wanted = set(ids)
        eventually(lambda: wanted <= set(self.effects()), f"{len(wanted)} effects", patience)
        assert self.effects() == dict.fromkeys(wanted, 1)

    def empty(self) -> None:
        """Nothing is left in the queue, unacknowledged messages included: they would come back when the daemon has gone."""
        assert self.daemon.run("stop").returncode == 0
        assert self.broker.depth(self.queue) == 0
        assert not self.daemon.processes()

    @property
    def job(self) -> dict[str, Any]:
        job: dict[str, Any] = self.daemon.status()["jobs"][0]
        return job


class Feeder(threading.Thread):
    """Publishes until stopped; `ids` are those whose confirm has come."""

    def __init__(self, broker: Broker, queue: str, *, body: bytes = b"work") -> None:
        super().__init__(daemon=True)
        self.ids: list[str] = []
        self.over = threading.Event()
        self._broker, self._queue, self._body = broker, queue, body

    def __enter__(self) -> Feeder:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        with self._broker.channel() as channel:
            channel.confirm_delivery()
            number = 0
            while not self.over.is_set():
                number += 1
                how = pika.BasicProperties(delivery_mode=2, message_id=f"f{number}")
                channel.basic_publish("", self._queue, self._body, how, mandatory=True)
                self.ids.append(f"f{number}")

    def more(self, count: int) -> None:
        """Until so many more are published."""
        wanted = len(self.ids) + count
        eventually(lambda: len(self.ids) >= wanted, f"{count} messages more")


def noted(services: Services, queue: str) -> bool:
    """Mnesia, and Ra's directory, write up to 2 s after they have answered: a broker that is killed before has never heard of the queue."""
    data = services.directory / "rabbitmq" / "mnesia"
    name = re.compile(re.escape(queue.encode()) + rb"(?!\.)")
    return all(any(name.search(_read(file)) for file in data.glob(pattern)) for pattern in ("*/*.[DL]*", "*/quorum/*/names.dets"))


def _read(file: Path) -> bytes:
    """Nothing, when it is gone again: Mnesia renames and removes its logs."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""
