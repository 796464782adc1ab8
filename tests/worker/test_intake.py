from __future__ import annotations

import threading
from collections.abc import Sequence

from nursery import PATIENCE, until

from holdfast.model.delivery import Delivery
from holdfast.worker.intake import LETTERS, Intake


def messages(number: int, first: int = 1) -> list[Delivery]:
    return [Delivery(first + i, b"x", 0) for i in range(number)]


class Taker(threading.Thread):
    """Takes once and keeps what it got."""

    def __init__(self, intake: Intake) -> None:
        super().__init__(daemon=True)
        self.intake = intake
        self.got: Sequence[Delivery] | None = None
        self.done = threading.Event()
        self.start()

    def run(self) -> None:
        self.got = self.intake.take()
        self.done.set()

    def wait(self) -> Sequence[Delivery] | None:
        assert self.done.wait(PATIENCE)
        return self.got


def takers(intake: Intake, number: int) -> list[Taker]:
    """Threads that all wait already."""
    made = [Taker(intake) for _ in range(number)]
    until(lambda: not intake.busy(number), "threads that wait")
    return made


def test_idle_threads_share_what_came() -> None:
    intake = Intake(500)
    four = takers(intake, 4)
    intake.put(messages(20))
    shares = [taker.wait() for taker in four]
    assert sorted(delivery.seq for got in shares for delivery in got) == list(range(1, 21))
    assert [len(got) for got in shares] == [5, 5, 5, 5]


def test_with_one_writer_one_thread_takes_all_up_to_a_batch() -> None:
    intake = Intake(15, one_writer=True)
    four = takers(intake, 4)
    intake.put(messages(20))
    until(lambda: sum(taker.done.is_set() for taker in four) == 2, "two threads with work")
    assert sorted(len(taker.got) for taker in four if taker.done.is_set()) == [5, 15]
    assert intake.drain() == []
    assert all(taker.wait() is None for taker in four if not taker.got)


def test_what_was_not_begun_comes_back_when_draining() -> None:
    intake = Intake(10)
    intake.put(messages(3))
    assert [delivery.seq for delivery in intake.drain()] == [1, 2, 3]
    assert intake.take() is None


def test_a_pause_holds_everything_until_the_end_of_it() -> None:
    intake = Intake(10)
    intake.pause()
    intake.put(messages(3))
    (taker,) = takers_that_block(intake)
    assert not taker.done.is_set()
    assert len(intake.empty()) == 3
    intake.put(messages(2, first=10))
    intake.resume()
    assert [delivery.seq for delivery in taker.wait()] == [10, 11]


def takers_that_block(intake: Intake) -> list[Taker]:
    made = [Taker(intake)]
    until(lambda: intake._idle == 1, "a thread that waits")
    return made


def test_one_thread_looks_for_letters() -> None:
    intake = Intake(10)
    two = takers(intake, 2)
    intake.ask_for_letters()
    until(lambda: sum(taker.done.is_set() for taker in two) == 1, "one thread with letters")
    assert [taker.got for taker in two if taker.done.is_set()] == [LETTERS]
    intake.drain()
    assert [taker.wait() for taker in two].count(None) == 1


def test_letters_do_not_wait_behind_messages_that_always_wait() -> None:
    intake = Intake(10)
    intake.put(messages(3))
    intake.ask_for_letters()
    assert intake.take() == LETTERS
    assert len(intake.take() or ()) == 3


def test_lingering_waits_for_a_fuller_batch_but_not_for_long() -> None:
    intake = Intake(4, linger=PATIENCE)
    (taker,) = takers(intake, 1)
    intake.put(messages(2))
    intake.put(messages(1, first=3))
    assert not taker.done.wait(0.05)
    intake.put(messages(1, first=4))
    assert len(taker.wait()) == 4
    brief = Intake(4, linger=0.01)
    (taker,) = takers(brief, 1)
    brief.put(messages(2))
    assert len(taker.wait()) == 2


def test_a_drain_ends_lingering_and_loses_nothing() -> None:
    intake = Intake(4, linger=PATIENCE)
    (taker,) = takers(intake, 1)
    intake.put(messages(2))
    rest = intake.drain()
    assert len(rest) + len(taker.wait() or ()) == 2
