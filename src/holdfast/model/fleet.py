"""The fleet: which worker processes there should be, which there are, and what to do about the difference.

Pure: `handle(event, now)` changes the values here and returns effects; the supervisor does them. *Wanted* (jobs x slots)
and *actual* (workers) are two facts. A slot has an incumbent, which works, and perhaps an heir, which is to take over:
a good one is never ended before its heir is ready. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.model.life import Life, Step, Worker

QUARANTINE_SLOT = -1
STABLE_AFTER = 30.0  # a worker that was up so long was no crash at start
FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0
FREE_DEATHS = 3  # so many deaths in a row are replaced at once: kills under load are not a crash loop


# --- what happens ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """A generation is loaded and prepared: its workers may start."""

    generation: int


@dataclass(frozen=True, slots=True)
class Ready:
    worker: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker is reaped. `how` is for people; `blameless`: this is no crash loop, for it had done something, or somebody killed it."""

    worker: str
    how: str
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Hung:
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suspects:
    """So many messages of the job wait for quarantine."""

    job: str
    count: int


@dataclass(frozen=True, slots=True)
class Replace:
    """Put an heir beside the slot's incumbent, which drains when the heir is ready."""

    job: str
    slot: int


@dataclass(frozen=True, slots=True)
class Scale:
    job: str
    slots: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain everything within so many seconds; nothing is spawned any more."""

    within: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline may have come."""


Event = Launch | Ready | Exited | SpawnFailed | Hung | Suspects | Replace | Scale | Stop | Tick


# --- what to do --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    worker: str
    job: str
    slot: int
    generation: int
    quarantine: bool


@dataclass(frozen=True, slots=True)
class Activate:
    worker: str


@dataclass(frozen=True, slots=True)
class Drain:
    worker: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End it now; `stacks` asks for its stacks first."""

    worker: str
    stacks: bool


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    event: str
    worker: str
    text: str


Effect = Spawn | Activate | Drain | Kill | Note


@dataclass(slots=True)
class Slot:
    """One place in a job."""

    incumbent: Worker | None = None
    heir: Worker | None = None
    deaths: int = 0  # in a row, none of them after STABLE_AFTER
    not_before: float = 0.0  # cooling down until then
    retiring: bool = False  # leaves for good: the job was scaled down, or quarantine is over


@dataclass(slots=True)
class JobFleet:
    """One job's wanted slots."""

    name: str
    overlap: bool = True
    start_limit: float = 30.0
    drain_limit: float = 30.0
    slots: dict[int, Slot] = field(default_factory=dict)


@dataclass(slots=True)
class Fleet:
    """All jobs. `jitter()` gives a factor around 1, so that crash loops of many slots do not beat together."""

    jobs: dict[str, JobFleet]
    jitter: Callable[[], float] = lambda: 1.0
    generation: int = 0
    stopping: bool = False
    workers: dict[str, Worker] = field(default_factory=dict)  # every one that is not reaped
    spawned: int = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what is to be done, in order."""
        effects: list[Effect] = []
        match event:
            case Launch(generation):
                self.generation = generation
            case Ready(worker):
                self._ready(worker, now, effects)
            case Exited(worker, how, blameless):
                self._exited(worker, how, blameless, now, effects)
            case SpawnFailed(worker, how):
                self._exited(worker, how, False, now, effects)
            case Hung(worker, reason):
                self._hung(worker, reason, effects)
            case Suspects(job, count):
                self._suspects(self.jobs[job], count, now, effects)
            case Replace(job, slot):
                self._replace(self.jobs[job], slot, now, effects)
            case Scale(job, slots):
                self._scale(self.jobs[job], slots, now, effects)
            case Stop(within):
                self._stop(within, now, effects)
            case Tick():
                pass
        self._overdue(now, effects)
        self._fill(now, effects)
        return effects

    def next_deadline(self) -> float | None:
        """When a Tick is due; None when nothing waits for time."""
        times = [w.deadline for w in self.workers.values() if w.deadline is not None]
        if self.generation and not self.stopping:
            times += [s.not_before for j in self.jobs.values() for s in j.slots.values() if s.incumbent is None]
        return min(times, default=None)

    def ready(self) -> bool:
        """Whether every wanted slot has an incumbent that is ready for work."""
        slots = [s for j in self.jobs.values() for n, s in j.slots.items() if n != QUARANTINE_SLOT and not s.retiring]
        return all(s.incumbent is not None and s.incumbent.life is Life.ACTIVE for s in slots)

    def stopped(self) -> bool:
        """Whether a stop has come to its end."""
        return self.stopping and not self.workers

    # --- one event each

    def _ready(self, name: str, now: float, effects: list[Effect]) -> None:
        worker = self.workers.get(name)
        if worker is None or not worker.step(Step.SAID_READY, now, None):
            return
        job, slot = self._place(worker)
        if slot.heir is worker:
            self._inherit(job, slot, worker, now, effects)
        else:
            self._activate(worker, now, effects)

    def _inherit(self, job: JobFleet, slot: Slot, heir: Worker, now: float, effects: list[Effect]) -> None:
        """The heir is ready: with overlap it works before the incumbent drains; without, it waits for the incumbent's end."""
        old = slot.incumbent
        if job.overlap or old is None:
            slot.incumbent, slot.heir = heir, None
            self._activate(heir, now, effects)
        if old is not None:
            self._drain(old, "replaced", now, effects)

    def _exited(self, name: str, how: str, blameless: bool, now: float, effects: list[Effect]) -> None:
        worker = self.workers.pop(name, None)
        if worker is None:
            return
        expected = worker.life is Life.DRAINING
        stable = blameless or (worker.life is Life.ACTIVE and now - worker.since >= STABLE_AFTER)
        worker.step(Step.EXITED, now, None)
        job, slot = self._place(worker)
        if not expected:
            effects.append(Note("worker.died", name, how))
            self._cool(slot, stable, now)
        if slot.heir is worker:
            slot.heir = None
        elif slot.incumbent is worker:
            slot.incumbent = None
            self._succeed(slot, now, effects)
        if slot.retiring and slot.incumbent is None and slot.heir is None:
            job.slots.pop(worker.slot, None)

    def _succeed(self, slot: Slot, now: float, effects: list[Effect]) -> None:
        """The place is free: an heir that is there takes it."""
        heir, slot.heir = slot.heir, None
        slot.incumbent = heir
        if heir is not None and heir.life is Life.READY:
            self._activate(heir, now, effects)

    def _cool(self, slot: Slot, stable: bool, now: float) -> None:
        slot.deaths = 1 if stable else slot.deaths + 1
        over = slot.deaths - FREE_DEATHS
        delay = 0.0 if over <= 0 else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(over - 1, 20)) * self.jitter()
        slot.not_before = now + delay

    def _hung(self, name: str, reason: str, effects: list[Effect]) -> None:
        worker = self.workers.get(name)
        if worker is not None:
            effects += [Note("worker.hung", name, reason), Kill(name, stacks=True)]

    def _suspects(self, job: JobFleet, count: int, now: float, effects: list[Effect]) -> None:
        slot = job.slots.get(QUARANTINE_SLOT)
        if count and slot is None:
            job.slots[QUARANTINE_SLOT] = Slot()
        elif count and slot is not None:
            slot.retiring = False  # one that drains already is followed by another
        elif not count and slot is not None:
            self._retire(job, QUARANTINE_SLOT, now, effects)

    def _replace(self, job: JobFleet, number: int, now: float, effects: list[Effect]) -> None:
        slot = job.slots.get(number)
        if self.stopping or slot is None or slot.retiring or slot.heir or not slot.incumbent or slot.incumbent.life is not Life.ACTIVE:
            return
        slot.heir = self._spawn(job, number, now, effects)

    def _scale(self, job: JobFleet, slots: int, now: float, effects: list[Effect]) -> None:
        for number in range(slots):
            job.slots.setdefault(number, Slot()).retiring = False
        for number in [n for n in job.slots if n >= slots]:
            self._retire(job, number, now, effects)

    def _retire(self, job: JobFleet, number: int, now: float, effects: list[Effect]) -> None:
        slot = job.slots[number]
        slot.retiring = True
        for worker in (slot.incumbent, slot.heir):
            if worker is not None:
                self._drain(worker, "not needed any more", now, effects)
        if slot.incumbent is None and slot.heir is None:
            del job.slots[number]

    def _stop(self, within: float, now: float, effects: list[Effect]) -> None:
        self.stopping = True
        for worker in list(self.workers.values()):
            self._drain(worker, "stop", now, effects)
            worker.deadline = min(worker.deadline or now + within, now + within)

    # --- what all share

    def _overdue(self, now: float, effects: list[Effect]) -> None:
        for worker in self.workers.values():
            if worker.deadline is not None and worker.deadline <= now:
                worker.deadline, worker.killed = None, True  # the kill ends it; its exit is what counts
                effects += [Note("worker.overdue", worker.id, f"still {worker.life.name}"), Kill(worker.id, stacks=True)]

    def _fill(self, now: float, effects: list[Effect]) -> None:
        if self.stopping or not self.generation:
            return
        for job in self.jobs.values():
            for number, slot in job.slots.items():
                if slot.incumbent is None and not slot.retiring and slot.not_before <= now:
                    slot.incumbent = self._spawn(job, number, now, effects)

    def _spawn(self, job: JobFleet, number: int, now: float, effects: list[Effect]) -> Worker:
        self.spawned += 1
        quarantine = number == QUARANTINE_SLOT
        name = f"{job.name}/{'q' if quarantine else number}.{self.spawned}"
        worker = Worker(name, job.name, number, self.generation, quarantine, since=now, deadline=now + job.start_limit)
        self.workers[name] = worker
        effects.append(Spawn(name, job.name, number, self.generation, quarantine))
        return worker

    def _activate(self, worker: Worker, now: float, effects: list[Effect]) -> None:
        if worker.step(Step.ACTIVATED, now, None):
            effects.append(Activate(worker.id))

    def _drain(self, worker: Worker, reason: str, now: float, effects: list[Effect]) -> None:
        if worker.step(Step.DRAIN, now, self.jobs[worker.job].drain_limit):
            worker.reason = reason
            effects.append(Drain(worker.id))

    def _place(self, worker: Worker) -> tuple[JobFleet, Slot]:
        job = self.jobs[worker.job]
        return job, job.slots.get(worker.slot) or Slot(retiring=True)
