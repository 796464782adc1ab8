"""Dead letters: one per message however often it comes, and another try that has one effect however often it is asked for."""

from pathlib import Path
from typing import Any

import pytest
from engine_world import Add, Build, ByName, Died, World

from holdfast import Message, Reject
from holdfast.model.delivery import DONE, FAILED


def die_once(world: World, point: str, nth: int = 1) -> None:
    """Let the process die at this passage of the point."""
    passes = iter(range(1, 10**6))

    def look(reached: str) -> None:
        if reached == point and next(passes) == nth:
            raise Died

    world.on_point = look


def run_through(world: World) -> None:
    """Process, with a new worker after each death."""
    while world.source.waiting:
        try:
            world.run()
        except Died:
            world.die()


@pytest.mark.parametrize("where", ["store", "state_dir"])
@pytest.mark.parametrize("job", [Add, ByName])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_death_between_letter_and_answer_makes_no_second_letter(build: Build, where: str, job: type[Add], nth: int) -> None:
    world = build(job, dead_letter=where)
    die_once(world, "after-commit", nth)
    world.send("a,1,raise", "b,2")
    run_through(world)
    assert world.outcomes() == [(FAILED, b"FALSE"), (DONE, b"TRUE")]
    assert world.volumes() == {"b": 2}
    letters = world.files.whole() if where == "state_dir" else world.letters()
    assert [letter.body for letter in letters] == [b"a,1,raise"]


def test_a_clash_that_comes_again_is_one_letter(build: Build) -> None:
    world = build(ByName)
    die_once(world, "after-commit", 2)
    world.send("a,1", "a,2")
    run_through(world)
    assert world.outcomes() == [(DONE, b"TRUE"), (FAILED, b"FALSE")]
    assert [letter.body for letter in world.letters()] == [b"a,2"]
    assert world.volumes() == {"a": 1}


class Kills(ByName):
    def identity(self, message: Message) -> str:
        if message.text.startswith("killer"):
            raise Died
        return super().identity(message)


def test_no_code_of_the_users_sees_a_doomed_message(build: Build) -> None:
    world = build(Kills)
    world.source.put(b"killer,1", doom="killed its worker 3 times", attempt=4)
    world.send("a,1")
    world.run()
    assert world.outcomes() == [(FAILED, b"FALSE"), (DONE, b"TRUE")]
    (letter,) = world.letters()
    assert (letter.body, letter.reason, letter.attempts, letter.identity) == (b"killer,1", "killed its worker 3 times", 4, None)


def test_a_doomed_message_that_was_done_gets_its_answer(build: Build) -> None:
    world = build()
    world.send("a,1,answer")
    world.run()
    world.source._last = 0
    world.source.put(b"a,1,answer", doom="killed its worker 3 times", redelivered=True)
    world.run()
    assert world.outcomes() == [(DONE, b"ok a")]
    assert world.letters() == []


class Repaired(ByName):
    """Fails until it is repaired."""

    broken = True

    def one(self, message: Message, db: Any) -> Any:
        answer = super().one(message, db)
        if self.broken:
            raise ValueError("broken")
        return answer


class RepairedPlain(Repaired):
    def identity(self, message: Message) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize("job", [Repaired, RepairedPlain])
@pytest.mark.parametrize("where", ["store", "state_dir"])
def test_a_letter_retried_twice_has_one_effect(build: Build, job: type[Repaired], where: str) -> None:
    Repaired.broken = True
    world = build(job, dead_letter=where)
    world.send("a,1", "b,2")
    world.run()
    Repaired.broken = False
    mark(world)
    second = World(Path(world.spec.state_dir), job, dead_letter=where)
    second.files = world.files
    second.start()
    world.engine.retry_letters()
    second.engine.retry_letters()
    mark(world)
    world.engine.retry_letters()
    second.close()
    assert world.volumes() == {"a": 1, "b": 2}
    assert world.letters() == []
    assert world.files.whole() == []


def mark(world: World) -> None:
    world.store.letters().mark(None)
    world.files.mark(None)


@pytest.mark.parametrize(("how", "answer"), [("", b"TRUE"), (",answer", b"ok a")])
def test_the_same_identity_gets_the_answer_of_the_retry(build: Build, how: str, answer: bytes) -> None:
    Repaired.broken = True
    world = build(Repaired)
    world.send(f"a,1{how}")
    world.run()
    Repaired.broken = False
    mark(world)
    world.engine.retry_letters()
    world.send(f"a,1{how}")
    world.run()
    assert world.outcomes() == [(FAILED, b"FALSE"), (DONE, answer)]
    assert world.volumes() == {"a": 1}


def test_a_retry_that_fails_goes_back_to_the_dead(build: Build) -> None:
    Repaired.broken = True
    world = build(Repaired)
    world.send("a,1")
    world.run()
    (before,) = world.letters()
    mark(world)
    world.engine.retry_letters()
    (after,) = world.letters()
    assert (after.id, after.state, after.attempts, after.body) == (before.id, "dead", before.attempts + 1, before.body)
    assert world.volumes() == {}
    world.engine.retry_letters()
    assert world.letters() == [after]


class KillsWhenTriedAgain(Repaired):
    def one(self, message: Message, db: Any) -> Any:
        if not self.broken:
            raise Died
        return super().one(message, db)


@pytest.mark.parametrize("where", ["store", "state_dir"])
def test_a_letter_that_kills_its_worker_is_not_tried_by_the_next_one(build: Build, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Repaired.broken = True
    world = build(KillsWhenTriedAgain, dead_letter=where)
    world.send("a,1")
    world.run()
    Repaired.broken = False
    mark(world)
    monkeypatch.setattr("holdfast.worker.retrial.failure_of", _no_failure)
    with pytest.raises(Died):
        world.engine.retry_letters()
    world.die()
    world.engine.retry_letters()
    (letter,) = world.files.whole() if where == "state_dir" else world.letters()
    assert (letter.state, letter.body, letter.attempts) == ("dead", b"a,1", 2)
    assert letter.reason.startswith("another try was begun and never ended (its worker died); before that: ")
    assert letter.reason.endswith("ValueError: broken")
    assert world.volumes() == {}


def _no_failure(error: BaseException) -> Any:
    raise error


def test_weather_leaves_a_letter_marked(build: Build) -> None:
    Repaired.broken = True
    world = build(Repaired)
    world.send("a,1")
    world.run()
    Repaired.broken = False
    mark(world)
    world.plan["commit"] = ["away after"]
    world.engine.retry_letters()
    world.plan["begin"] = ["away"]
    world.engine.retry_letters()
    world.engine.retry_letters()
    assert world.volumes() == {"a": 1}
    assert world.letters() == []


class Clashing(ByName):
    pass


def test_an_identity_that_was_done_meanwhile_is_not_done_again(build: Build) -> None:
    """A doomed message is buried under its delivery id; its client sent it again, and that went well."""
    world = build(Clashing)
    world.source.put(b"a,1", doom="killed its worker 3 times")
    world.send("a,1")
    world.run()
    mark(world)
    world.engine.retry_letters()
    assert world.volumes() == {"a": 1}
    assert world.letters() == []


class Refuses(Add):
    def one(self, message: Message, db: Any) -> Any:
        raise Reject("never")


def test_what_a_letter_tells(build: Build) -> None:
    world = build(Refuses)
    world.source.put(b"a,1", headers={"k": "v"}, attempt=3)
    world.run()
    (letter,) = world.letters()
    assert (letter.job, letter.body, letter.reason, letter.message_id, letter.headers, letter.source, letter.attempts, letter.size) == (
        *("Add", b"a,1", "never", "7-1", {"k": "v"}, "memory://", 3, 3),
    )
    assert letter.died_at > 1_700_000_000
