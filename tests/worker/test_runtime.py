from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest

from holdfast.errors import AppError, HoldfastError
from holdfast.model.job import Job
from holdfast.testing.clock import FakeClock
from holdfast.worker.runtime import ThreadRuntime, only_here


class Connection:
    """Notes what is asked of it."""

    def __init__(self, proof: str = "") -> None:
        self.asked: list[str] = []
        self.broken = proof
        self.db = "db"

    def begin(self) -> Connection:
        return self

    def begin_message(self) -> None:
        self.asked.append("begin")

    def proof(self) -> str:
        return self.broken

    def commit(self) -> None:
        self.asked.append("commit")

    def rollback(self) -> None:
        self.asked.append("rollback")


def runtime(connection: Any, work: Any = "run") -> ThreadRuntime:
    return ThreadRuntime(work, threading.Event(), connection)


def test_a_transaction_of_run_commits_at_its_end() -> None:
    connection = Connection()
    with runtime(connection).transaction() as db:
        assert (db, connection.asked) == ("db", ["begin"])
    assert connection.asked == ["begin", "commit"]


def test_an_error_rolls_it_back() -> None:
    connection = Connection()
    with pytest.raises(KeyError), runtime(connection).transaction():
        raise KeyError
    assert connection.asked == ["begin", "rollback"]


def test_a_transaction_that_is_not_whole_is_not_committed() -> None:
    connection = Connection(proof="a statement failed and its error was caught")
    with pytest.raises(AppError, match="was caught; catch database errors inside"), runtime(connection).transaction():
        pass
    assert connection.asked == ["begin", "rollback"]


def test_where_there_is_no_transaction_to_be_had() -> None:
    with pytest.raises(HoldfastError, match="no store"):
        runtime(None).transaction()
    with pytest.raises(HoldfastError, match=r"handle\(\) has its transaction already; use db"):
        runtime(Connection(), "handle").transaction()


def test_sleep_ends_early_and_says_so() -> None:
    draining = threading.Event()
    made = ThreadRuntime("run", draining, None)
    assert (made.alive(), made.sleep(0.001)) == (True, True)
    draining.set()
    assert (made.alive(), made.sleep(3600)) == (False, False)


def test_guarded_work_looks_like_what_the_user_wrote() -> None:
    class Fee(Job):
        def handle(self, message: Any, db: Any = None) -> str:
            return f"{message} {db}"

    guarded = only_here(Fee().handle)
    assert list(inspect.signature(guarded).parameters) == ["message", "db"]
    assert guarded("m", db=1) == "m 1"


def test_a_clock_moves_when_told() -> None:
    clock = FakeClock(start=10.0, epoch=100.0)
    clock.advance(2.5)
    assert (clock.monotonic(), clock.monotonic_ns(), clock.time()) == (12.5, 12_500_000_000, 102.5)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
