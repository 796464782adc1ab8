"""The control socket answers its user, and survives everybody else."""

import json
import os
import select
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.control import server as s


class Served:
    """A server on its own small loop, driven by the test."""

    def __init__(self, folder: Path, allowed: frozenset[int]) -> None:
        self.path = folder / "fee.sock"
        self.poll = select.epoll()
        self.server = s.ControlServer(s.bind(str(folder), "fee"), allowed, self.answer, self.watch)
        self.poll.register(self.server.listener, select.EPOLLIN)
        self.known: set[int] = set()

    def answer(self, fd: int, request: dict[str, Any]) -> None:
        self.server.send(fd, {"progress": "working"})
        self.server.send(fd, {"exit": 0, "result": request["verb"] * request.get("times", 1)})

    def watch(self, fd: int, write: bool | None) -> None:
        if write is None:
            if fd in self.known:
                self.known.discard(fd)
                self.poll.unregister(fd)
            return
        mask = select.EPOLLIN | (select.EPOLLOUT if write else 0)
        (self.poll.modify if fd in self.known else self.poll.register)(fd, mask)
        self.known.add(fd)

    def turn(self, seconds: float = 0.0) -> None:
        for fd, _mask in self.poll.poll(seconds):
            if fd == self.server.listener.fileno():
                self.server.accept(time.monotonic())
            else:
                self.server.ready(fd)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        client.setblocking(False)
        return client

    def ask(self, data: bytes) -> list[dict[str, Any]]:
        client, received = self.connect(), b""
        client.sendall(data)
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            self.turn(0.05)
            try:
                part = client.recv(1 << 20)
            except BlockingIOError:
                continue
            if not part:
                break
            received += part
        client.close()
        return [json.loads(line) for line in received.splitlines()]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path, frozenset({os.getuid()}))
    yield one
    for fd in list(one.server.clients):
        one.server.close(fd)
    one.server.listener.close()
    one.poll.close()


def test_a_request_gets_progress_and_one_last_answer(served: Served) -> None:
    assert served.ask(b'{"verb": "status"}\n') == [{"progress": "working"}, {"exit": 0, "result": "status"}]


def test_a_long_answer_arrives_whole(served: Served) -> None:
    assert len(served.ask(b'{"verb": "0123456789", "times": 200000}\n')[-1]["result"]) == 2_000_000


def test_the_socket_is_its_users_alone(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


def test_other_users_are_refused(tmp_path: Path) -> None:
    other = Served(tmp_path, frozenset({12345}))
    client = other.connect()
    other.turn(1)
    assert client.recv(1) == b""
    client.close()
    other.server.listener.close()
    other.poll.close()


@pytest.mark.parametrize("garbage", [b"\x00\xff\n", b"[]\n", b"{}\n", b'{"verb": 5}\n', b"[" * 60000 + b"\n"])
def test_garbage_is_answered_with_the_right_form(served: Served, garbage: bytes) -> None:
    (answer,) = served.ask(garbage)
    assert answer["exit"] == 2
    assert served.ask(b'{"verb": "status"}\n')[-1]["exit"] == 0


def test_an_endless_line_is_cut_off(served: Served) -> None:
    assert served.ask(b"x" * s.MOST_REQUEST) == []


def test_a_thousand_half_open_clients_do_not_keep_others_out(served: Served) -> None:
    idle = []
    for _ in range(1000):
        idle.append(served.connect())
        served.turn()
    assert len(served.server.clients) <= s.MOST_CLIENTS
    assert served.ask(b'{"verb": "status"}\n')[-1]["exit"] == 0
    for client in idle:
        client.close()


def test_a_client_that_says_nothing_is_dropped_in_time(served: Served) -> None:
    client = served.connect()
    served.turn(1)
    due = served.server.next_deadline()
    assert due is not None
    served.server.overdue(due)
    assert client.recv(1) == b""
    assert served.server.next_deadline() is None
    client.close()


def test_a_long_path_works(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    listener = s.bind(str(folder), "fee")
    assert (folder / "fee.sock").is_socket()
    listener.close()
