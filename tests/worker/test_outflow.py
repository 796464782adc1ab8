"""What leaves an outbox, at brokers that do as they are told: none of its targets waits for another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ConfigurationError
from holdfast.model.broker import parse_broker
from holdfast.model.targets import Targets
from holdfast.sources.amqp_publisher import Failure
from holdfast.stores import open_store
from holdfast.stores.base import Store
from holdfast.stores.outbox import Outgoing
from holdfast.worker import outflow
from holdfast.worker.outflow import Outflow

Done = Callable[[Failure | None], None]


class Brokers:
    """Stands in for `holdfast.sources.amqp_sending.Senders`. Exchange `stuck` never answers; `after` is called in each `wait`."""

    trouble = ""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.after: Callable[[], object] = lambda: None
        self._open: list[Done] = []

    def send(self, message: Outgoing, done: Done) -> None:
        name = message.target.rpartition("=")[2]
        if name == "unknown":
            raise ConfigurationError("nothing says who we are there", remedy="say it")
        self.sent.append(message.body.decode())
        if name != "stuck":
            self._open.append(done)

    def wait(self, _seconds: float, done: Callable[[], object]) -> None:
        self.after()
        while self._open and not done():
            self._open.pop(0)(None)


class Hold:
    def __init__(self) -> None:
        self.times = 1000

    def held(self) -> bool:
        self.times -= 1
        return self.times > 0

    def release(self) -> None:
        pass


class Stage:
    def __init__(self, store: Store) -> None:
        self.store, self.brokers, self.hold = store, Brokers(), Hold()
        self.ending, self.woken = threading.Event(), threading.Event()
        self.flow = Outflow(store, "Fee", lambda _point: None, lambda _trouble: None)

    def put(self, exchange: str, *bodies: str, key: str = "") -> None:
        connection = self.store.connect()
        transaction = connection.begin()
        for body in bodies:
            transaction.db.publish(f"amqp://mq/?exchange={exchange}", body, key=key)
        transaction.commit()
        connection.close()
        self.woken.set()

    def run(self) -> None:
        self.flow.run(self.hold, self.brokers, self.woken, self.ending)

    def left(self) -> list[str]:
        rows = self.store.work(lambda core: core.exec_driver_sql("SELECT body FROM holdfast_outbox ORDER BY id").all())
        return [bytes(row[0]).decode() for row in rows]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    store: Any = open_store(f"sqlite:///{tmp_path}/fee.db", "Fee")
    store.install("", lambda _db: None)
    store.outbox.targets = Targets([parse_broker("amqp://me:secret@mq/")])
    yield Stage(store)
    store.close()


def test_one_that_never_answers_holds_up_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outflow, "MOST", 3)
    stage.put("stuck", "a", "b", "c", "d")
    stage.put("good", "e", "f")
    turns = iter(range(100))

    def after() -> None:
        turn = next(turns)
        if turn == 5:
            assert stage.left() == ["a", "b", "c", "d"]
            stage.put("good", "g")
        if turn == 10:
            stage.ending.set()

    stage.brokers.after = after
    stage.run()
    assert stage.brokers.sent == ["a", "b", "c", "e", "f", "g"]
    assert stage.left() == ["a", "b", "c", "d"]


def test_a_broker_that_nobody_knows_any_more_holds_up_no_other(stage: Stage) -> None:
    stage.put("unknown", "a", "b", key="k")
    stage.put("good", "c")
    stage.run()
    assert stage.brokers.sent == ["c"]
    assert stage.left() == ["a", "b"]
    assert "who we are" in stage.flow.trouble()


def test_nothing_follows_when_the_name_is_lost(stage: Stage) -> None:
    stage.put("good", *"abcdef", key="k")
    stage.hold.times = 4
    stage.run()
    assert len(stage.brokers.sent) < 6
    assert [*stage.brokers.sent, *stage.left()] == [*"abcdef"]


def test_nothing_follows_when_the_process_ends(stage: Stage) -> None:
    stage.put("good", *"abcdef", key="k")
    stage.brokers.after = stage.ending.set
    stage.run()
    assert [*stage.brokers.sent, *stage.left()] == [*"abcdef"]
