"""The example: what its clients do when answers stay away, and what its examination of the database finds."""

from __future__ import annotations

import ast
import importlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "fee"))
    return importlib.import_module


class Server(threading.Thread):
    """A ROUTER that answers each body with what `answer` says, or not at all."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        super().__init__()
        self._answer = answer
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._done = threading.Event()
        self.bodies: list[bytes] = []
        self.start()

    def run(self) -> None:
        while not self._done.is_set():
            if self._socket.poll(20):
                *envelope, body = self._socket.recv_multipart()
                self.bodies.append(body)
                answer = self._answer(body)
                if answer is not None:
                    self._socket.send_multipart([*envelope, answer])
        self._context.destroy(0)

    def stop(self) -> None:
        self._done.set()
        self.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[bytes], bytes | None]], Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[bytes], bytes | None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize("client", ["lock_step", "pipelining"])
def test_a_client_gets_every_answer(example: Any, serve: Any, client: str) -> None:
    clients = example("clients")
    server = serve(lambda body: b"FALSE" if body.startswith(b"7,") else b"TRUE")
    outcome = getattr(clients, client)(server.endpoint, range(1, 501), 0)
    assert sorted(outcome.confirmed) == [ticket for ticket in range(1, 501) if ticket != 7]
    assert outcome.refused == {7: b"FALSE"}
    assert len(outcome.latencies) == 500
    assert (outcome.unanswered, outcome.resent) == ([], 0)


@pytest.mark.parametrize("client", ["lock_step", "pipelining"])
def test_a_client_without_an_answer_sends_the_same_ticket_again(example: Any, serve: Any, client: str, monkeypatch: Any) -> None:
    clients = example("clients")
    monkeypatch.setattr(clients, "ANSWER_TIMEOUT", 0.2)
    seen: set[bytes] = set()

    def deaf_once(body: bytes) -> bytes | None:
        if body.startswith((b"3,", b"5,")) and body not in seen:
            seen.add(body)
            return None
        return b"TRUE"

    server = serve(deaf_once)
    outcome = getattr(clients, client)(server.endpoint, range(1, 11), 0)
    assert sorted(outcome.confirmed) == list(range(1, 11))
    assert outcome.resent >= 2
    assert server.bodies.count(clients.body(3)) >= 2


@pytest.mark.parametrize("client", ["lock_step", "pipelining"])
def test_a_client_gives_up_and_says_what_stayed_without_an_answer(example: Any, serve: Any, client: str, monkeypatch: Any) -> None:
    clients = example("clients")
    monkeypatch.setattr(clients, "ANSWER_TIMEOUT", 0.1)
    monkeypatch.setattr(clients, "GIVE_UP", 0.3)
    outcome = getattr(clients, client)(serve(lambda body: None).endpoint, [1, 2], 0)
    assert (outcome.confirmed, sorted(outcome.unanswered)) == ([], [1, 2])


def test_the_examination_finds_what_is_lost_and_what_is_doubled(example: Any, tmp_path: Path) -> None:
    demo = example("demo")
    with sqlite3.connect(tmp_path / "fee.db") as db:
        db.execute("CREATE TABLE fee (ticket INTEGER, login TEXT, volume NUMERIC, status CHAR(1))")
        db.executemany("INSERT INTO fee VALUES (?, '', 0, ?)", [(1, "Y"), (2, "Y"), (2, "Y"), (3, "N"), (5, "Y")])
    db.close()
    verdict = demo.examine(tmp_path / "fee.db", {1, 2, 3, 4})
    assert (verdict.rows, verdict.finished, verdict.lost, verdict.doubled) == (5, 4, 2, 1)


def test_the_readme_shows_the_example_as_it_is() -> None:
    text = (ROOT / "examples" / "fee" / "fee.py").read_text()
    ast.parse(text)
    assert f"```python\n{text}```" in (ROOT / "README.md").read_text()


def test_the_unit_test_of_the_readme_works(example: Any) -> None:
    example("fee")
    _, _, rest = (ROOT / "README.md").read_text().partition("## Testing your job")
    code = rest.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), found)
    found["test_a_fee_is_booked"]()
