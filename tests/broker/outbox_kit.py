"""A daemon that publishes what it is told, through a proxy, into queues of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from broker_kit import Broker

from holdfast.testing import DaemonProcess, Proxy, eventually, free_port
from holdfast.testing.databases import query

APP = """
from holdfast import Daemon, Job

class Teller(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "{store}"
    outbox = "amqp://guest:guest@127.0.0.1:{broker}/?heartbeat=600"
    {more}

    def handle(self, message, db):
        where, key, body = message.text.split(" ", 2)
        url = "amqp://127.0.0.1:{broker}/?" + where
        db.publish(url, body, key="" if key == "-" else key, headers={{"colour": "red"}}, message_id=body)
        if body.startswith("fail"):
            raise ValueError("after all")

if __name__ == "__main__":
    Daemon(Teller).main()
"""


class Stage:
    """A daemon that publishes what it is told, through a proxy, into queues of its own."""

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        store: str,
        *,
        more: str = "",
        toml: str = "",
        environ: Any = None,
        like: Stage | None = None,
    ) -> None:
        self.broker, self.store = broker, store
        self.proxy = like.proxy if like is not None else Proxy(broker.host, broker.port)
        self.port = free_port()
        self.queues: list[str] = []
        app = APP.format(port=self.port, store=store, broker=self.proxy.port, more=more)
        self.daemon = DaemonProcess(folder, app, toml=toml, environ=environ)

    def close(self) -> None:
        with self.daemon:
            pass
        self.proxy.close()
        with self.broker.channel() as channel:
            for queue in self.queues:
                channel.queue_delete(queue)

    def queue(self, *, quorum: bool = False) -> str:
        arguments = {"x-queue-type": "quorum"} if quorum else None
        with self.broker.channel() as channel:
            self.queues.append(channel.queue_declare(f"q{uuid.uuid4().hex[:10]}", durable=True, arguments=arguments).method.queue)
        return self.queues[-1]

    @contextmanager
    def client(self) -> Iterator[Callable[[str], bytes]]:
        with zmq.Context() as context, context.socket(zmq.REQ) as sock:
            sock.linger = 0
            sock.connect(f"tcp://127.0.0.1:{self.port}")

            def ask(text: str) -> bytes:
                sock.send(text.encode())
                assert sock.poll(60_000), "no answer"
                return bytes(sock.recv())

            yield ask

    def tell(self, texts: Iterable[str]) -> None:
        """Many at once, each answered with TRUE."""
        with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
            sock.linger = 0
            sock.connect(f"tcp://127.0.0.1:{self.port}")
            told = [sock.send_multipart([b"", text.encode()]) for text in texts]
            for _ in told:
                assert sock.poll(60_000), "no answer"
                assert sock.recv_multipart() == [b"", b"TRUE"]

    def taken(self, queue: str) -> list[tuple[str, str]]:
        """All that is in the queue, removed: message id and body."""
        found = []
        with self.broker.channel() as channel:
            while True:
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                if method is None:
                    return found
                assert properties.delivery_mode == 2
                assert properties.headers["colour"] == "red"
                found.append((properties.message_id, body.decode()))

    def wait(self, queue: str, count: int) -> None:
        eventually(lambda: self.broker.depth(queue) >= count, f"{count} messages in {queue}")

    @property
    def outbox(self) -> dict[str, Any]:
        outbox: dict[str, Any] = self.daemon.status()["jobs"][0]["outbox"]
        return outbox

    def rows(self) -> int:
        return int(query(self.store, "SELECT count(*) FROM holdfast_outbox")[0][0])
