"""A message that may kill its process is handled while no other is."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from holdfast.model.delivery import Delivery
from holdfast.worker.intake import Intake


def delivery(seq: int) -> Delivery:
    return Delivery(seq, b"", 0)


class Taker(threading.Thread):
    """A handler thread: takes, says what it has, and waits to be told to go on."""

    def __init__(self, intake: Intake) -> None:
        super().__init__(daemon=True)
        self.intake = intake
        self.taken: Sequence[Delivery] | None = ()
        self.has, self.go_on = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        while (taken := self.intake.take()) is not None:
            self.taken = taken
            self.has.set()
            self.go_on.wait()
            self.go_on.clear()
        self.taken = None
        self.has.set()

    def seqs(self) -> list[int]:
        assert self.has.wait(30)
        self.has.clear()
        return [one.seq for one in self.taken or ()]


def test_it_waits_for_the_others_and_they_for_it() -> None:
    intake = Intake(1, threads=2)
    one, two = Taker(intake), Taker(intake)
    intake.put([delivery(1)])
    while not (one.has.is_set() or two.has.is_set()):
        one.has.wait(0.01)
    busy, idle = (one, two) if one.has.is_set() else (two, one)
    assert busy.seqs() == [1]
    intake.put_alone(delivery(9))
    intake.put([delivery(2)])
    assert not idle.has.is_set()
    busy.go_on.set()
    while not (one.has.is_set() or two.has.is_set()):
        one.has.wait(0.01)
    lonely, other = (one, two) if one.has.is_set() else (two, one)
    assert lonely.seqs() == [9]
    assert not other.has.is_set()
    assert intake.busy(2)
    lonely.go_on.set()
    while not (one.has.is_set() or two.has.is_set()):
        one.has.wait(0.01)
    last = one if one.has.is_set() else two
    assert last.seqs() == [2]
    assert intake.drain() == []
    last.go_on.set()
    for taker in (one, two):
        taker.join(30)
        assert not taker.is_alive()


def test_who_drains_gives_it_back() -> None:
    intake = Intake(1, threads=1)
    intake.put_alone(delivery(9))
    intake.put([delivery(1)])
    assert [one.seq for one in intake.drain()] == [9, 1]
    assert not intake.busy(0)
