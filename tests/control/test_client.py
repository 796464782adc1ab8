"""The control socket's client against the real server part and against things that only look like it."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.control.client import request
from holdfast.control.server import ControlServer, bind
from holdfast.errors import InternalError, NoRightsError, NotRunningError


class Listener(threading.Thread):
    """The real server part in a thread; `answer` says what each request gets."""

    def __init__(self, directory: str, answer: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> None:
        super().__init__()
        self._watched: dict[int, bool] = {}
        self._answer = answer
        self._done, self._finish = os.pipe()
        self._server = ControlServer(bind(directory, "fee"), frozenset({os.geteuid()}), self._asked, self._watch)
        self.start()

    def _asked(self, fd: int, message: dict[str, Any]) -> None:
        for line in self._answer(message):
            self._server.send(fd, line)

    def _watch(self, fd: int, write: bool | None) -> None:
        if write is None:
            self._watched.pop(fd, None)
        else:
            self._watched[fd] = write

    def run(self) -> None:
        listener = self._server.listener.fileno()
        while True:
            readable, writable, _ = select.select(
                [self._done, listener, *self._watched], [fd for fd, write in self._watched.items() if write], []
            )
            if self._done in readable:
                return
            for fd in {*readable, *writable} - {listener}:
                self._server.ready(fd)
            if listener in readable:
                self._server.accept(time.monotonic())

    def close(self) -> None:
        os.write(self._finish, b".")
        self.join()
        for fd in list(self._server.clients):
            self._server.close(fd)
        self._server.listener.close()
        os.close(self._done)
        os.close(self._finish)


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    made: list[Listener] = []

    def start(answer: Callable[[dict[str, Any]], list[dict[str, Any]]], folder: Path = tmp_path) -> Path:
        made.append(Listener(str(folder), answer))
        return folder

    yield start
    for one in made:
        one.close()


def test_a_conversation(listen: Callable[..., Path]) -> None:
    folder = listen(lambda message: [{"progress": "one"}, {"progress": "two\n" * 20000}, {"exit": 0, "result": message}])
    answers = list(request(str(folder), "fee", {"verb": "status", "x": "ü"}, 30))
    assert [list(answer) for answer in answers] == [["progress"], ["progress"], ["exit", "result"]]
    assert answers[-1]["result"] == {"verb": "status", "x": "ü"}


def test_a_path_that_is_too_long_for_a_socket(listen: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    listen(lambda _: [{"exit": 0}], folder)
    assert list(request(str(folder), "fee", {"verb": "wait"}, 30)) == [{"exit": 0}]


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="fee is not running"):
        request(str(tmp_path), "fee", {"verb": "status"})
    with pytest.raises(NotRunningError):
        request(str(tmp_path / "nothing"), "fee", {"verb": "status"})
    bind(str(tmp_path), "fee").close()
    with pytest.raises(NotRunningError):
        request(str(tmp_path), "fee", {"verb": "status"})


def test_silence_has_an_end(listen: Callable[..., Path]) -> None:
    folder = listen(lambda _: [])
    with pytest.raises(TimeoutError):
        list(request(str(folder), "fee", {"verb": "status"}, 0.05))


def test_a_wedged_daemon_with_a_full_queue_is_a_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "fee.sock"))
        listener.listen(0)
        waiting = _fill(str(tmp_path / "fee.sock"))
        with pytest.raises(TimeoutError):
            list(request(str(tmp_path), "fee", {"verb": "status"}, 0.05))
        for one in waiting:
            one.close()


def _fill(path: str) -> list[socket.socket]:
    """Connections, until no more fit into the listener's queue."""
    waiting = []
    while True:
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
        try:
            waiting[-1].connect(path)
        except BlockingIOError:
            return waiting


def test_nonsense_is_not_believed(tmp_path: Path) -> None:
    listener = bind(str(tmp_path), "fee")
    answers = request(str(tmp_path), "fee", {"verb": "status"}, 30)
    peer, _ = listener.accept()
    peer.sendall(b"[1]\n")
    with pytest.raises(InternalError, match="makes no sense"):
        list(answers)
    peer.close()
    listener.close()


def test_a_daemon_that_goes_ends_the_answers(tmp_path: Path) -> None:
    listener = bind(str(tmp_path), "fee")
    answers = request(str(tmp_path), "fee", {"verb": "restart"}, 30)
    peer, _ = listener.accept()
    peer.sendall(b'{"progress": "draining"}\n{"half')
    peer.shutdown(socket.SHUT_WR)
    assert list(answers) == [{"progress": "draining"}]
    peer.close()
    listener.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.usefixtures("open_path")
def test_another_user_may_not_ask(listen: Callable[..., Path]) -> None:
    folder = listen(lambda _: [{"exit": 0}])
    os.seteuid(65534)
    try:
        with pytest.raises(NoRightsError, match="this user may not talk to fee"):
            request(str(folder), "fee", {"verb": "status"})
    finally:
        os.seteuid(0)
