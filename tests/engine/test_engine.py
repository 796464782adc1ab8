"""The order of a message's life, with a real SQLite file: every message acknowledged has its effect exactly once (G3, G4)."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import Job, Message, Reject, Retry
from holdfast.model import board
from holdfast.model.breaker import Breaker
from holdfast.model.delivery import DONE, FAILED, Delivery
from holdfast.model.options import JobOptions
from holdfast.model.spec import WorkerSpec
from holdfast.sources.memory import MemorySource
from holdfast.stores import open_store
from holdfast.worker.engine import Engine
from holdfast.worker.engine_context import EngineContext

SCHEMA = "CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER)"


class Add(Job):
    """Body "name,volume[,misbehaviour]"; the effect shows twice when it happens twice."""

    schema = SCHEMA

    def handle(self, message: Message, db: Any) -> str | None:
        name, volume, *rest = message.text.split(",")
        misbehave = rest[0] if rest else ""
        if misbehave == "reject-first":
            raise Reject("not wanted")
        db.execute("INSERT INTO account (name, volume) VALUES (:n, :v)", {"n": name, "v": volume})
        MISBEHAVE[misbehave](db)
        return f"ok {name}" if misbehave == "answer" else None


def _raise(error: BaseException) -> Callable[[Any], None]:
    def work(db: Any) -> None:
        raise error

    return work


def _swallow(db: Any) -> None:
    try:
        db.execute("INSERT INTO no_such_table VALUES (1)")
    except Exception:
        return


def _swallow_inside_savepoint(db: Any) -> None:
    try:
        with db.savepoint():
            db.execute("INSERT INTO no_such_table VALUES (1)")
    except Exception:
        return


def _orm_rollback(db: Any) -> None:
    session = db.session()
    session.connection()
    session.rollback()


def _commit_on_connection(db: Any) -> None:
    db.connection.commit()


MISBEHAVE: dict[str, Callable[[Any], None]] = {
    "": lambda _db: None,
    "answer": lambda _db: None,
    "raise": _raise(RuntimeError("boom")),
    "exit": _raise(SystemExit(3)),
    "reject": _raise(Reject("no")),
    "swallow": _swallow,
    "savepoint": _swallow_inside_savepoint,
    "commit": lambda db: db.execute("COMMIT"),
    "rollback": lambda db: db.execute("ROLLBACK"),
    "connection": _commit_on_connection,
    "orm": _orm_rollback,
    "ddl": lambda db: db.execute("CREATE TABLE IF NOT EXISTS other (a TEXT)"),
}
INNOCENT = {"", "answer", "savepoint", "orm", "ddl"}


class World:
    """One engine, its source and its database file."""

    def __init__(self, folder: Path, job: type[Job] = Add, **options: Any) -> None:
        self.path = folder / "fee.db"
        url = f"sqlite:///{self.path}"
        chosen = {"retries": 0, "dead_letter": "store", "threads": 1, "batch_age": 10.0, **options}
        spec = WorkerSpec("Add/0.1", "worker", "Add", "Add", 1, JobOptions(store=url, **chosen), str(folder), 5.0)
        self.store = open_store(url, "Add", timeout=30.0)
        self.store.install(job.schema, job.prepare)
        self.source = MemorySource(answers=True)
        self.draining = False
        self.paused: list[str] = []
        self.points: list[str] = []
        memory = memoryview(bytearray(board.size(1, 500)))
        context = EngineContext(
            source=self.source,
            store=self.store,
            connection=self.store.connect(),
            board=board.BoardWriter(memory, 1, 500, 1).threads[0],
            draining=lambda: self.draining,
            pause=self.paused.append,
            resume=lambda: None,
            wait=lambda _seconds: not self.draining,
            breaker=Breaker(),
            lock=threading.Lock(),
            fault=self.points.append,
            letters=None,
            monotonic_ns=time.monotonic_ns,
        )
        self.engine = Engine(job(), spec, context)

    def send(self, *bodies: str) -> list[int]:
        seqs = [self.source.put(body.encode()) for body in bodies]
        self.source.grant(len(bodies))
        return seqs

    def run(self) -> None:
        while waiting := list(self.source.receive()):
            rest = self.engine.process(waiting)
            if rest:
                self.source.give_back([delivery.seq for delivery in rest])
                return

    def query(self, sql: str) -> list[Any]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def volumes(self) -> dict[str, int]:
        return dict(self.query("SELECT name, sum(volume) FROM account GROUP BY name"))

    def close(self) -> None:
        self.engine.close()
        self.store.close()
        self.source.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.close()


def test_the_answer_comes_after_the_commit(world: World) -> None:
    seen: list[int] = []
    settle = world.source.settle
    world.source.settle = lambda items: (seen.append(len(world.query("SELECT 1 FROM account"))), settle(items))[1]  # type: ignore[method-assign,assignment]
    world.send("a,1", "b,2,answer")
    world.run()
    assert seen == [2]
    assert [(s.outcome, s.answer) for s in world.source.settled.values()] == [(DONE, b"TRUE"), (DONE, b"ok b")]
    assert world.points == [
        *("after-take", "after-begin", "after-inbox", "after-handle", "after-handle", "after-record", "after-commit", "after-settle")
    ]


@pytest.mark.parametrize("how", sorted(MISBEHAVE))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_misbehaving_handler_takes_nothing_from_the_others(world: World, how: str, place: int) -> None:
    bodies = [f"m{n},{n + 1}" for n in range(3)]
    bodies[place] += f",{how}" if how else ""
    seqs = world.send(*bodies)
    world.run()
    expected = {f"m{n}": n + 1 for n in range(3) if n != place or how in INNOCENT}
    assert world.volumes() == expected
    assert {seq: s.outcome for seq, s in world.source.settled.items()} == {
        seq: DONE if n != place or how in INNOCENT else FAILED for n, seq in enumerate(seqs)
    }
    assert len(world.store.letters().all()) == (0 if how in INNOCENT else 1)


def test_a_message_that_fails_before_its_first_statement_costs_nothing(world: World) -> None:
    world.send("a,1", "b,2,reject-first", "c,3")
    world.run()
    assert world.volumes() == {"a": 1, "c": 3}
    assert world.points.count("after-commit") == 1


def test_a_committed_message_that_comes_again_gets_its_first_answer(world: World) -> None:
    world.send("a,1,answer", "b,2,raise")
    world.run()
    world.source._waiting.extend(Delivery(n, b, time.monotonic_ns(), redelivered=True) for n, b in ((1, b"a,1,answer"), (2, b"b,2,raise")))
    world.source.grant(2)
    world.source.settled.clear()
    world.run()
    assert world.volumes() == {"a": 1}
    assert [(s.outcome, s.answer) for s in world.source.settled.values()] == [(DONE, b"ok a"), (FAILED, b"FALSE")]
    assert len(world.store.letters().all()) == 1


class ByName(Add):
    def identity(self, message: Message) -> str:
        return message.text.split(",")[0]


def test_an_identity_has_one_effect_and_another_body_is_never_run(tmp_path: Path) -> None:
    world = World(tmp_path, ByName)
    world.send("a,1,answer", "a,1,answer", "a,9")
    world.run()
    assert world.volumes() == {"a": 1}
    assert [(s.outcome, s.answer) for _, s in sorted(world.source.settled.items())] == [
        (DONE, b"ok a"),
        (DONE, b"ok a"),
        (FAILED, b"FALSE"),
    ]
    world.close()


class InBatches(Add):
    handle = None  # type: ignore[assignment]

    def handle_batch(self, messages: list[Message], db: Any) -> list[Any]:
        return [self._one(message, db) for message in messages]

    def _one(self, message: Message, db: Any) -> Any:
        name, volume, *rest = message.text.split(",")
        db.execute("INSERT INTO account (name, volume) VALUES (:n, :v)", {"n": name, "v": volume})
        if rest == ["item"]:
            return Reject("this one")
        MISBEHAVE[rest[0] if rest else ""](db)
        return name


@pytest.mark.parametrize("how", ["raise", "item", "swallow", "commit", "exit"])
def test_offenders_of_a_batch_end_alone(tmp_path: Path, how: str) -> None:
    world = World(tmp_path, InBatches)
    world.send(*(f"m{n},1" + (f",{how}" if n in (0, 4, 8) else "") for n in range(9)))
    world.run()
    assert world.volumes() == {f"m{n}": 1 for n in range(9) if n not in (0, 4, 8)}
    assert len(world.source.settled) == 9
    assert len(world.store.letters().all()) == 3
    world.close()


def test_a_drain_leaves_what_was_not_begun(world: World) -> None:
    world.points = points = []

    def fault(point: str) -> None:
        points.append(point)
        world.draining = world.draining or point == "after-handle"

    world.engine._context.fault = fault
    world.send("a,1", "b,2", "c,3")
    world.run()
    assert world.volumes() == {"a": 1}
    assert world.source.given_back == [2, 3]
    world.engine._context.fault = points.append
    world.draining = False
    world.source.grant(2)
    world.run()
    assert world.volumes() == {"a": 1, "b": 2, "c": 3}


class Asks(Job):
    schema = SCHEMA

    def handle(self, message: Message, db: Any) -> None:
        db.execute("INSERT INTO account (name, volume) VALUES ('a', 1)")
        if message.attempt < 3:
            raise Retry("later", after=0.5)


def test_a_retry_undoes_its_writes_and_comes_again(tmp_path: Path) -> None:
    world = World(tmp_path, Asks, retries=5)
    world.send("x")
    world.source.grant(5)
    world.run()
    assert world.source.retries == [(1, 0.5, "later"), (1, 0.5, "later")]
    assert world.volumes() == {"a": 1}
    world.close()


class Lost(Exception):
    """The connection went away, and whether the commit happened is not known."""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hows=st.lists(st.sampled_from(sorted(MISBEHAVE)), min_size=1, max_size=8),
    commits=st.lists(st.sampled_from(["fine", "lost before", "lost after"]), max_size=6),
    batches=st.booleans(),
)
def test_whatever_fails_acknowledged_means_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, hows: list[str], commits: list[str], batches: bool
) -> None:
    world = World(tmp_path_factory.mktemp("world"), InBatches if batches else Add)
    _lose_commits(world, list(commits))
    seqs = world.send(*(f"m{n},1,{how}" for n, how in enumerate(hows)))
    world.run()
    done = {f"m{n}" for n, seq in enumerate(seqs) if world.source.settled[seq].outcome == DONE}
    assert world.volumes() == dict.fromkeys(done, 1)
    assert done == {f"m{n}" for n, how in enumerate(hows) if how in INNOCENT}
    assert sorted(letter.body for letter in _whole(world)) == sorted(
        f"m{n},1,{how}".encode() for n, how in enumerate(hows) if how not in INNOCENT
    )
    world.close()


def _whole(world: World) -> list[Any]:
    letters = world.store.letters()
    return [letters.show(letter.id) for letter in letters.all()]


def _lose_commits(world: World, plan: list[str]) -> None:
    """Let the next commits fail as planned, as a server's do: before or after they have happened."""
    from holdfast.stores.base import Fault

    connection, fault = world.engine._connection, world.store.fault

    class Losing:
        def begin(self) -> Any:
            transaction = connection.begin()
            commit = transaction.commit

            def lose() -> None:
                how = plan.pop(0) if plan else "fine"
                if how == "lost before":
                    raise Lost
                commit()
                if how == "lost after":
                    raise Lost

            transaction.commit = lose  # type: ignore[method-assign]
            return transaction

        def close(self) -> None:
            connection.close()

    world.engine._context.connection = Losing()  # type: ignore[assignment]
    world.store.fault = lambda error: Fault.TRANSIENT if isinstance(error, Lost) else fault(error)  # type: ignore[method-assign]


@pytest.mark.parametrize("retried_again", [False, True])
def test_a_dead_letter_is_tried_again_once(tmp_path: Path, retried_again: bool) -> None:
    world = World(tmp_path, ByName)
    MISBEHAVE["flaky"] = _raise(RuntimeError("database of the bank is down"))
    world.send("a,1,flaky", "b,2,raise")
    world.run()
    assert world.volumes() == {}
    MISBEHAVE["flaky"] = lambda _db: None
    letters = world.store.letters()
    assert letters.mark(None, "Add") == 2
    for _ in range(1 + retried_again):
        world.engine.retry_letters()
    assert world.volumes() == {"a": 1}
    (left,) = letters.all()
    assert (left.state, left.attempts, left.reason) == ("dead", 2, "RuntimeError: boom")
    world.send("a,1,flaky")
    world.run()
    assert world.volumes() == {"a": 1}
    assert world.source.settled[3].answer == b"TRUE"
    world.close()
