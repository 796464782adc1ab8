"""Slots: the places of a job's workers, each wanted for one generation. Pure values of `holdfast.model.fleet`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from holdfast.model.crash_loop import CrashLoop
from holdfast.model.fleet_events import Plan
from holdfast.model.life import Life, Worker

QUARANTINE_SLOT = -1
#: Slots from here on, and this quarantine, belong to an ingress whose place another one has taken, for as long as its clients stay.
BESIDE, QUARANTINE_BESIDE = 1000, -2
NOBODY = 0  # the generation of a slot that is not wanted any more


@dataclass(slots=True)
class Slot:
    """One place in a job: the generation that is wanted there, and who is there."""

    generation: int
    incumbent: Worker | None = None
    heir: Worker | None = None
    recycle: bool = False  # the incumbent is to be replaced, by the same generation
    deaths: int = 0  # in a row, none of them after a stable time
    not_before: float = 0.0  # cooling down until then
    misses: int = 0  # workers in a row that could not have what they need
    lacks: str = ""  # what that is; empty when there is nothing
    lacks_since: float = 0.0  # monotonic seconds

    def wants_heir(self) -> bool:
        """Whether somebody else should be where the incumbent is."""
        one = self.incumbent
        if one is None or self.heir is not None or one.life is Life.DRAINING:
            return False
        return one.generation != self.generation or self.recycle


@dataclass(slots=True)
class JobFleet:
    """One job: how each generation wants it, and its slots."""

    name: str
    plans: dict[int, Plan]
    slots: dict[int, Slot] = field(default_factory=dict)
    scaled: int | None = None  # slots that an operator asked for
    removed: bool = False  # no generation that stays has it
    crashes: CrashLoop = field(default_factory=CrashLoop)

    def plan(self, generation: int) -> Plan:
        """This generation's plan; of one that is gone already, any."""
        return self.plans.get(generation) or next(iter(self.plans.values()), Plan(0))

    def ordinary(self) -> dict[int, Slot]:
        """The slots that are wanted, without quarantine and those beside."""
        return {n: s for n, s in self.slots.items() if 0 <= n < BESIDE and s.generation != NOBODY}

    def move(self, moves: Mapping[int, int], workers: Iterable[Worker]) -> None:
        """Give slots other numbers, with everybody who is there."""
        self.slots = {moves.get(number, number): slot for number, slot in self.slots.items()}
        for worker in workers:
            if worker.job == self.name:
                worker.slot = moves.get(worker.slot, worker.slot)


def is_quarantine(number: int) -> bool:
    """Whether suspects run in this slot."""
    return number < 0


def is_beside(number: int) -> bool:
    """Whether this slot belongs to the ingress before."""
    return number >= BESIDE or number == QUARANTINE_BESIDE


def beside(number: int) -> int:
    """Where the slot of this number goes when another ingress comes."""
    return QUARANTINE_BESIDE if is_quarantine(number) else number + BESIDE


def label(number: int) -> str:
    """How a worker's id names the slot."""
    plus = "+" if is_beside(number) else ""
    return f"q{plus}" if is_quarantine(number) else f"{number % BESIDE}{plus}"
