"""Clients beyond the limit, where the kernel lets us shut no door: they are cut, and those who are there stay (G6, G9)."""

import errno
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from ingress_kit import until

from holdfast.ingress.clients import Clients
from holdfast.linux import door


@pytest.fixture
def context() -> Iterator[Any]:
    with zmq.Context() as made:
        made.linger = 0
        yield made


def _refuse(_listener: socket.socket) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def _asks(context: Any, port: int) -> Any:
    client = context.socket(zmq.DEALER)
    client.reconnect_ivl = -1
    client.connect(f"tcp://127.0.0.1:{port}")
    client.send_multipart([b"", b"x"])
    return client


def test_a_door_that_cannot_be_shut_ends_nothing(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "shut", _refuse)
    with socket.socket() as listener, context.socket(zmq.ROUTER) as router:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        router.set(zmq.USE_FD, socket.socket(fileno=listener.dup().detach()).detach())
        clients = Clients(context, router, 1, listener.fileno())
        router.bind(f"tcp://127.0.0.1:{port}")

        def cut() -> int:
            return clients.read() if select.select([clients.fileno()], [], [], 0)[0] else 0

        with _asks(context, port) as first:
            until(lambda: (cut(), len(clients))[1] == 1, "one is in")
            with _asks(context, port):
                until(cut, "the second is cut")
            until(lambda: (cut(), len(clients))[1] == 1, "it has gone")
            clients.limit(5)
            clients.shut_for_good()
            with _asks(context, port):
                until(cut, "nobody comes in any more")
            identity, *_ = router.recv_multipart()
            router.send_multipart([identity, b"", b"y"])
            assert first.poll(20_000)
            assert first.recv_multipart() == [b"", b"y"]
        clients.close()
