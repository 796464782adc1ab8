"""Without a store there is no shared transaction: each message is settled right after its handler, at least once."""

from typing import Any

from engine_world import Build

from holdfast import Job, Message, Reject, Retry
from holdfast.model.delivery import DONE, FAILED


class Prints(Job):
    seen: list[str]

    def handle(self, message: Message) -> Any:
        self.seen.append(message.text)
        if message.text == "bad":
            raise ValueError("bad")
        if message.text == "later" and message.attempt == 1:
            raise Retry
        return "x" * 70_000 if message.text == "long" else message.text


def test_each_message_is_settled_behind_its_handler(build: Build) -> None:
    Prints.seen = []
    world = build(Prints, stored=False, retries=1)
    world.send("a", "bad", "later", "long")
    world.run()
    assert world.source.calls[:1] == [[1]]
    assert Prints.seen == ["a", "bad", "later", "long", "bad", "later"]
    assert [(outcome, answer[:9]) for outcome, answer in world.outcomes()] == [
        (DONE, b"a"),
        (FAILED, b"FALSE"),
        (DONE, b"later"),
        (DONE, b"xxxxxxxxx"),
    ]
    assert [letter.body for letter in world.files.whole()] == [b"bad"]


def test_a_letter_that_cannot_be_written_leaves_its_message_unsettled(build: Build) -> None:
    Prints.seen = []
    world = build(Prints, stored=False)
    world.files.broken = 1
    world.send("bad")
    world.run()
    assert len(world.source.retries) == 1
    assert world.outcomes() == [(FAILED, b"FALSE")]
    assert len(world.files.whole()) == 1


def test_a_drain_stops_between_messages(build: Build) -> None:
    Prints.seen = []
    world = build(Prints, stored=False)
    world.on_point = lambda point: setattr(world, "draining", world.draining or point == "after-handle")
    world.send("a", "b")
    world.run()
    assert Prints.seen == ["a"]
    assert world.source.given_back == [2]


class Together(Job):
    def handle_batch(self, messages: list[Message]) -> Any:
        if any(message.text == "bad" for message in messages):
            raise ValueError("bad")
        return [Reject("odd") if message.text == "odd" else None for message in messages]


def test_halves_without_a_store(build: Build) -> None:
    world = build(Together, stored=False)
    world.send("a", "odd", "bad", "b")
    world.run()
    assert [outcome for outcome, _ in world.outcomes()] == [DONE, FAILED, FAILED, DONE]
    assert sorted(letter.body for letter in world.files.whole()) == [b"bad", b"odd"]


def test_a_doomed_message_is_not_handled(build: Build) -> None:
    Prints.seen = []
    world = build(Prints, stored=False)
    world.source.put(b"a", doom="killed its worker 3 times")
    world.send("b")
    world.run()
    assert Prints.seen == ["b"]
    assert [letter.reason for letter in world.files.whole()] == ["killed its worker 3 times"]


def test_a_letter_in_a_file_is_tried_again(build: Build) -> None:
    Prints.seen = []
    world = build(Prints, stored=False)
    world.source.put(b"a", doom="killed its worker 3 times")
    world.send("bad")
    world.run()
    world.files.mark(None)
    world.engine.retry_letters()
    assert Prints.seen == ["bad", "a", "bad"]
    (left,) = world.files.whole()
    assert (left.body, left.state, left.attempts) == (b"bad", "dead", 2)
    world.engine.retry_letters()
    assert len(Prints.seen) == 3
