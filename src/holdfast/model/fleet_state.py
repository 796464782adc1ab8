"""A fleet at rest, as plain values: what the next program of the same supervisor goes on with. No rollout is under way then."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.model.fleet import Fleet
from holdfast.model.life import Worker
from holdfast.model.slots import JobFleet


@dataclass(frozen=True, slots=True)
class FleetState:
    """Deadlines are monotonic seconds, which go on through an exec."""

    generation: int
    jobs: dict[str, JobFleet]
    workers: dict[str, Worker]
    spawned: int

    @classmethod
    def of(cls, fleet: Fleet) -> FleetState:
        """ValueError when it is not at rest."""
        if fleet.rollout is not None or fleet.stopping:
            raise ValueError("the fleet is not at rest")
        return cls(fleet.generation, fleet.jobs, fleet.workers, fleet.spawned)

    def fleet(self, jitter: Callable[[], float]) -> Fleet:
        """The fleet again. A worker in a slot is the same one as among the workers."""
        for job in self.jobs.values():
            for slot in job.slots.values():
                slot.incumbent, slot.heir = self._same(slot.incumbent), self._same(slot.heir)
        return Fleet(jitter=jitter, generation=self.generation, jobs=self.jobs, workers=self.workers, spawned=self.spawned)

    def _same(self, worker: Worker | None) -> Worker | None:
        return self.workers[worker.id] if worker is not None else None
