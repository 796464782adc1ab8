"""The store's weather: deadlocks and lost connections count nobody's attempt, are not believed for ever, and double nothing."""

from typing import Any

import pytest
from engine_world import SCHEMA, Add, Away, Build, InBatches, Transient, World

from holdfast import Job, Message, Reject
from holdfast.model.delivery import DONE, FAILED


@pytest.mark.parametrize("operation", ["begin", "claim", "record", "commit"])
@pytest.mark.parametrize("how", ["transient", "away", "full"])
@pytest.mark.parametrize("job", [Add, InBatches])
def test_weather_replays_the_batch_and_counts_nobodys_attempt(build: Build, operation: str, how: str, job: type[Job]) -> None:
    world = build(job, plan={operation: [how] * 3})
    world.send("a,1", "b,2,answer", "c,3")
    world.run()
    assert world.volumes() == {"a": 1, "b": 2, "c": 3}
    assert world.outcomes() == [(DONE, b"TRUE"), (DONE, b"ok b"), (DONE, b"TRUE")]
    assert world.source.retries == []
    assert world.letters() == []
    assert len(world.source.calls) == 1


def test_a_store_that_is_away_pauses_the_source_until_it_is_back(build: Build) -> None:
    world = build(plan={"commit": ["away"], "begin": ["fine", *["away"] * 12]})
    world.send("a,1", "b,2")
    world.run()
    assert world.volumes() == {"a": 1, "b": 2}
    assert set(world.paused) == {"store away: Away: commit failed"}
    assert world.resumed == 1
    assert world.waits[:3] == [pytest.approx(0.075), pytest.approx(0.15), pytest.approx(0.3)]
    assert max(world.waits) == pytest.approx(2.25)
    assert world.letters() == []


def test_a_commit_whose_answer_was_lost_has_one_effect(build: Build) -> None:
    world = build(plan={"commit": ["away after"]})
    world.send("a,1,answer", "b,2")
    world.run()
    assert world.volumes() == {"a": 1, "b": 2}
    assert world.outcomes() == [(DONE, b"ok a"), (DONE, b"TRUE")]
    assert world.counters()["duplicates"] == 2


def test_a_drain_after_a_commit_whose_answer_was_lost_has_one_effect(build: Build) -> None:
    world = build(plan={"commit": ["away after"]})
    world.on_wait = lambda: setattr(world, "draining", True)
    world.send("a,1,answer", "b,2")
    assert world.engine.process(world.source.take()) == []
    assert [seq for seq, _delay, _reason in world.source.retries] == [1, 2]
    world.on_wait, world.draining = lambda: None, False
    world.start()
    world.run()
    assert world.volumes() == {"a": 1, "b": 2}
    assert world.outcomes() == [(DONE, b"ok a"), (DONE, b"TRUE")]


def test_a_drain_while_the_store_is_away_gives_everything_back(build: Build) -> None:
    world = build(plan={"begin": ["away"] * 50})
    world.on_wait = lambda: setattr(world, "draining", len(world.waits) >= 4)
    world.send("a,1", "b,2")
    world.run()
    assert sorted(world.source.given_back) == [1, 2]
    assert world.source.settled == {}


class Poison(Add):
    """A message that makes the connection go away, and one that swallows that."""

    def one(self, message: Message, db: Any) -> Any:
        answer = super().one(message, db)
        if message.text.startswith("poison"):
            raise Away("server has gone away")
        if message.text.startswith("hidden"):
            try:
                raise Transient("deadlock")
            except Transient as error:
                raise Reject("something went wrong") from error
        return answer


@pytest.mark.parametrize("name", ["poison", "hidden"])
def test_poison_is_taken_for_weather_only_so_often(build: Build, name: str) -> None:
    world = build(Poison)
    world.send("a,1", f"{name},1", "b,1")
    world.run()
    assert world.volumes() == {"a": 1, "b": 1}
    assert [outcome for outcome, _ in world.outcomes()] == [DONE, FAILED, DONE]
    assert world.job.runs[name] == 7  # type: ignore[attr-defined]  # together six times, then alone


def test_a_store_that_is_full_is_waited_for_and_nobody_is_blamed(build: Build) -> None:
    world = build(plan={"commit": ["full"] * 40})
    world.send("a,1", "b,1")
    world.run()
    assert world.volumes() == {"a": 1, "b": 1}
    assert world.letters() == []
    assert world.source.retries == []
    assert len(world.waits) == 40


def test_alone_it_is_still_weather_when_the_store_does_not_answer(build: Build) -> None:
    world = build(plan={"commit": ["away"] * 7, "begin": [*["fine"] * 13, "away", "away", "away"]})
    world.send("a,1")
    world.run()
    assert world.volumes() == {"a": 1}
    assert world.letters() == []


@pytest.mark.parametrize("job", [Add, InBatches])
def test_what_the_commit_refuses_ends_alone(build: Build, job: type[Job]) -> None:
    world = build(job, plan={})
    strict = (
        "CREATE TABLE strict (name TEXT REFERENCES nobody (name) DEFERRABLE INITIALLY DEFERRED); CREATE TABLE nobody (name TEXT UNIQUE)"
    )
    for statement in strict.split(";"):
        world.query(statement)
    world.connection._connection.driver.execute("PRAGMA foreign_keys = ON").close()
    before = world.job.one  # type: ignore[attr-defined]

    def one(self: Any, message: Message, db: Any) -> Any:
        if message.text.startswith("orphan"):
            db.execute("INSERT INTO strict VALUES ('x')")
        return before(self, message, db)

    world.job.one = one  # type: ignore[attr-defined]
    try:
        world.send("a,1", "b,1", "orphan,1", "c,1")
        world.run()
    finally:
        world.job.one = before  # type: ignore[attr-defined]
    assert world.volumes() == {"a": 1, "b": 1, "c": 1}
    assert [letter.body for letter in world.letters()] == [b"orphan,1"]


class Swallows(Job):
    """Its second message swallows a deadlock the first time."""

    schema = SCHEMA
    world: World
    times = 0

    def handle(self, message: Message, db: Any) -> None:
        db.execute("INSERT INTO account (name, volume) VALUES (:n, 1)", {"n": message.text})
        if message.text == "b":
            type(self).times += 1
            if self.times == 1:
                db.broken = "a deadlock was swallowed"


def test_swallowed_weather_is_forgiven_once(build: Build) -> None:
    Swallows.times = 0
    world = build(Swallows)
    world.send("a", "b", "c")
    world.run()
    assert world.volumes() == {"a": 1, "b": 1, "c": 1}
    assert world.letters() == []


@pytest.mark.parametrize("how", ["transient", "away", "refused"])
def test_a_dead_letter_waits_for_better_weather(build: Build, how: str) -> None:
    world = build(plan={"bury": [how] * 2})
    world.send("a,1,raise", "b,1,raise", "c,1")
    world.run()
    assert world.volumes() == {"c": 1}
    assert [outcome for outcome, _ in world.outcomes()] == [FAILED, FAILED, DONE]
    assert sorted(letter.body for letter in world.letters()) == [b"a,1,raise", b"b,1,raise"]


def test_what_cannot_be_buried_stays_unsettled(build: Build) -> None:
    world = build(plan={"bury": ["refused"] * 4})
    world.send("a,1,raise")
    deliveries = world.source.take()
    world.engine.process(deliveries)
    assert world.source.settled == {}
    assert [seq for seq, _delay, _reason in world.source.retries] == [1]
    world.run()
    assert world.outcomes() == [(FAILED, b"FALSE")]
    assert len(world.letters()) == 1


def test_a_burial_whose_answer_was_lost_is_one_letter(build: Build) -> None:
    world = build(plan={"commit": ["away after"]})
    world.send("a,1,raise")
    world.run()
    assert world.outcomes() == [(FAILED, b"FALSE")]
    assert len(world.letters()) == 1
