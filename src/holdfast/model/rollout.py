"""A rollout: one generation takes the place of another, slot by slot; all new or all old. Pure; part of `holdfast.model.fleet`.

    ROLLING     one slot after the other is given to the new generation; its heir is ready before its incumbent drains
    PROBATION   all slots are given; the new workers prove themselves for `probation` seconds
    BACK        something was wrong: every slot is given back, and the verdict comes when nothing of the new generation is left

A new worker that ends before it is ready ends the rollout. One that was active and that its own code kills (not somebody else's SIGKILL)
halts it: no further slot is given before its replacement has lasted for the probation too. The second one rolls it back.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from holdfast.model.crash_loop import CrashLoop
from holdfast.model.fleet_events import Effect, Exited, Note, Plans, Progress, Removed, RolledBack, RolledOut
from holdfast.model.life import Life, Worker
from holdfast.model.slots import BESIDE, NOBODY, JobFleet, Slot, is_beside, is_quarantine

if TYPE_CHECKING:
    from holdfast.model.fleet import Fleet

MOST_DEATHS = 2  # of active workers by their own code
MOST_LOST = 5  # new workers that somebody else killed, or that could not be made, before they were ready


@dataclass(slots=True)
class Rollout:
    """The state of one rollout. `failure` says why it goes back; empty while it goes on."""

    target: int
    base: int
    probation: float
    todo: deque[tuple[str, int]] = field(default_factory=deque)
    rolling: tuple[str, int] | None = None
    given: int = 0
    total: int = 0
    halted: bool = False
    halted_until: float | None = None
    proved_at: float | None = None
    deaths: int = 0
    lost: int = 0
    failure: str = ""

    @classmethod
    def begin(cls, fleet: Fleet, target: int, plans: Plans, probation: float) -> Rollout:
        """Plan it; nothing is given yet."""
        rollout = cls(target, fleet.generation, probation)
        for name, plan in plans.items():
            job = fleet.jobs.get(name)
            if job is None:
                job = fleet.jobs[name] = JobFleet(name, {})
            job.plans[target] = plan
            job.removed = False
            there = [number for number in job.slots if 0 <= number < BESIDE]
            rollout.todo += [(name, number) for number in range(max([_wanted(job, target, rollout.base), *(n + 1 for n in there)]))]
            rollout.todo += [(name, number) for number in sorted(job.slots) if number >= BESIDE]
        rollout.total = len(rollout.todo)
        return rollout

    def deadlines(self, fleet: Fleet) -> list[float]:
        """When time alone changes something."""
        if self.failure or not self._all_settled(fleet):
            return []
        return [t for t in (self.halted_until if self.halted else None, self.proved_at) if t is not None]

    def go_on(self, fleet: Fleet, now: float, effects: list[Effect]) -> None:
        """Do what is possible now."""
        if self.failure:
            self._finish_back(fleet, effects)
            return
        while self._step(fleet, now, effects):
            pass
        if self.todo or self.rolling is not None or not self._all_settled(fleet):
            return
        if self.proved_at is None:
            self.proved_at = now + self.probation
            if self.probation:
                effects.append(Progress(f"all workers are replaced; on probation for {self.probation:g} s"))
        if now >= self.proved_at:
            self._accept(fleet, effects)

    def _step(self, fleet: Fleet, now: float, effects: list[Effect]) -> bool:
        """One slot further; False when it is not the time for it."""
        if self.rolling is not None:
            if not self._done(fleet, *self.rolling):
                return False
            self.rolling = None
            self.given += 1
            effects.append(Progress(f"{self.given} of {self.total} workers are replaced"))
        if not self.todo or (self.halted and not self._goes_on(fleet, now)):
            return False
        self.rolling = self.todo.popleft()
        self._give(fleet, *self.rolling, now, effects)
        return True

    def _goes_on(self, fleet: Fleet, now: float) -> bool:
        """Whether the replacement of the one that died has lasted for the probation."""
        if not self._all_settled(fleet):
            return False
        if self.halted_until is None:
            self.halted_until = now + self.probation
        self.halted = now < self.halted_until
        return not self.halted

    def _give(self, fleet: Fleet, name: str, number: int, now: float, effects: list[Effect]) -> None:
        """The slot is the new generation's from here on, or nobody's where it wants fewer."""
        job = fleet.jobs[name]
        if is_beside(number):
            if number not in job.slots or job.slots[number].generation == NOBODY:
                return  # its ingress has gone meanwhile
        elif number >= _wanted(job, self.target, self.base):
            if number in job.slots:
                fleet.retire(job, number, "the new configuration wants fewer", now, effects)
            return
        slot = job.slots.setdefault(number, Slot(self.target))
        slot.generation, slot.deaths, slot.not_before = self.target, 0, 0.0
        job.crashes = CrashLoop()

    def _done(self, fleet: Fleet, name: str, number: int) -> bool:
        slot = fleet.jobs[name].slots.get(number)
        return slot is None or slot.generation != self.target or fleet.settled(slot)

    def _all_settled(self, fleet: Fleet) -> bool:
        return all(
            fleet.settled(slot)
            for job in fleet.jobs.values()
            for number, slot in job.slots.items()
            if slot.generation == self.target and not is_quarantine(number)
        )

    # --- what goes wrong

    def died(self, fleet: Fleet, worker: Worker, was: Life, event: Exited, now: float, effects: list[Effect]) -> None:
        """A worker of any generation has ended without being told to."""
        if worker.generation != self.target or self.failure or worker.quarantine:
            return
        innocent = not event.born or (event.killed and not worker.killed)
        if was is not Life.ACTIVE:
            self.lost += 1
            if not innocent or self.lost >= MOST_LOST:
                self.roll_back(fleet, f"worker {worker.id} of the new generation was not ready: {event.how}", now, effects)
        elif not innocent:
            self._halt(fleet, worker, event.how, now, effects)

    def _halt(self, fleet: Fleet, worker: Worker, how: str, now: float, effects: list[Effect]) -> None:
        self.deaths += 1
        if self.deaths >= MOST_DEATHS:
            self.roll_back(fleet, f"worker {worker.id} of the new generation ended, the second one: {how}", now, effects)
            return
        self.halted, self.halted_until, self.proved_at = True, None, None
        text = f"a new worker ended: {how}; the rollout waits whether its replacement lasts"
        effects += [Note("rollout.halted", worker.id, text, worker.job), Progress(text)]

    def roll_back(self, fleet: Fleet, reason: str, now: float, effects: list[Effect]) -> None:
        """Give every slot back, all at once: what serves there now is broken."""
        if self.failure:
            return
        self.failure = reason
        self.todo.clear()
        effects += [Note("rollout.back", "", reason), Progress(f"rolling back: {reason}")]
        for job in fleet.jobs.values():
            if self.base in job.plans:
                self._give_back(fleet, job, now, effects)
            elif not job.removed:
                job.removed = True
                effects.append(Removed(job.name))

    def _give_back(self, fleet: Fleet, job: JobFleet, now: float, effects: list[Effect]) -> None:
        wanted = job.scaled if job.scaled is not None else job.plans[self.base].slots
        for number in range(wanted):
            job.slots.setdefault(number, Slot(self.base))
        for number, slot in list(job.slots.items()):
            if number >= wanted and not is_beside(number):
                fleet.retire(job, number, "rolled back", now, effects)
            elif slot.generation != self.base and not ((is_quarantine(number) or is_beside(number)) and slot.generation == NOBODY):
                slot.generation, slot.deaths, slot.not_before = self.base, 0, 0.0
                _dismiss_heir(fleet, slot, self.target, now, effects)
        job.crashes = CrashLoop()

    def _finish_back(self, fleet: Fleet, effects: list[Effect]) -> None:
        if any(worker.generation == self.target for worker in fleet.workers.values()):
            return
        if any(slot.generation == self.target for job in fleet.jobs.values() for slot in job.slots.values()):
            return
        for name, job in list(fleet.jobs.items()):
            job.plans.pop(self.target, None)
            if not job.plans:
                del fleet.jobs[name]
        fleet.rollout = None
        effects.append(RolledBack(self.target, self.failure))

    def _accept(self, fleet: Fleet, effects: list[Effect]) -> None:
        fleet.generation, fleet.rollout = self.target, None
        for job in fleet.jobs.values():
            if self.target not in job.plans:
                job.removed = True
                effects.append(Removed(job.name))
                continue
            if self.base in job.plans and job.plans[self.base].slots != job.plans[self.target].slots:
                job.scaled = None
            job.plans = {self.target: job.plans[self.target]}
            for number, slot in job.slots.items():
                if is_quarantine(number) and slot.generation == self.base:
                    slot.generation = self.target
        effects.append(RolledOut(self.target))


def _wanted(job: JobFleet, target: int, base: int) -> int:
    """How many slots the new generation wants: an operator's word stays, unless the configuration says something new."""
    plan, before = job.plans[target], job.plans.get(base)
    if job.scaled is not None and before is not None and before.slots == plan.slots:
        return job.scaled
    return plan.slots


def _dismiss_heir(fleet: Fleet, slot: Slot, target: int, now: float, effects: list[Effect]) -> None:
    """An heir that is not wanted any more makes room for another."""
    heir = slot.heir
    if heir is not None and heir.generation == target:
        slot.heir = None
        fleet.drain(heir, "rolled back", now, effects)
