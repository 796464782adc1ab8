"""When everything fails the source pauses instead of pouring into the dead letters; when something succeeds it goes on."""

from typing import Any

import pytest
from engine_world import SCHEMA, Build, World

from holdfast import Job, Message
from holdfast.model.delivery import DONE, FAILED


class Deployed(Job):
    """Fails until it is repaired; "odd" messages fail for ever."""

    schema = SCHEMA
    broken: bool

    def handle(self, message: Message, db: Any) -> None:
        if self.broken or message.text == "odd":
            raise RuntimeError("no such table")
        db.execute("INSERT INTO account (name, volume) VALUES (:n, 1)", {"n": message.text})


def repair_after(world: World, waits: int) -> None:
    def look() -> None:
        Deployed.broken = len(world.waits) < waits

    world.on_wait = look


@pytest.mark.parametrize("most", [1, 7, 500])
def test_a_row_of_failures_pauses_and_the_first_success_resumes(build: Build, most: int) -> None:
    Deployed.broken = True
    world = build(Deployed, answers=False, retries=5)
    repair_after(world, 4)
    world.send(*(f"m{n}" for n in range(40)))
    for delivery_batch in iter(lambda: world.source.take(most), []):
        assert world.engine.process(delivery_batch) == []
    assert world.volumes() == {f"m{n}": 1 for n in range(40)}
    assert world.paused[0].startswith("20 messages failed in a row: ")
    assert world.paused[0].endswith("RuntimeError: no such table")
    assert world.resumed == 1
    assert world.letters() == []
    assert len({seq for seq, _delay, _reason in world.source.retries}) < 20
    assert world.waits == sorted(world.waits)


def test_a_client_does_not_wait_longer_than_answer_within(build: Build) -> None:
    Deployed.broken = True
    world = build(Deployed, answers=True, answer_within=10.0)
    began = world.clock.monotonic()
    world.send(*(f"m{n}" for n in range(25)))
    world.run()
    assert world.outcomes() == [(FAILED, b"FALSE")] * 25
    assert world.clock.monotonic() - began == pytest.approx(10.0, abs=0.1)
    assert len(world.letters()) == 25
    assert world.breaker.opened
    assert world.resumed == 1  # somebody has to get the message that will close it
    Deployed.broken = False
    world.send("fine")
    world.run()
    assert not world.breaker.opened
    assert world.outcomes()[-1] == (DONE, b"TRUE")


def test_failures_beside_successes_are_theirs_alone(build: Build) -> None:
    Deployed.broken = False
    world = build(Deployed)
    world.send("fine", *["odd"] * 30)
    world.run()
    assert not world.breaker.opened
    assert world.paused == []
    assert len(world.letters()) == 30


def test_a_drain_gives_back_what_the_breaker_holds(build: Build) -> None:
    Deployed.broken = True
    world = build(Deployed, answers=False, retries=5)
    world.on_wait = lambda: setattr(world, "draining", len(world.waits) >= 3)
    world.send(*(f"m{n}" for n in range(30)))
    world.run()
    assert sorted(world.source.given_back) == list(range(1, 31))
    assert world.source.retries == []


class Rejects(Job):
    def handle(self, message: Message) -> None:
        message.json()


def test_rejected_messages_do_not_open_it(build: Build) -> None:
    world = build(Rejects)
    world.send(*["not json"] * 50)
    world.run()
    assert not world.breaker.opened
    assert len(world.letters()) == 50
