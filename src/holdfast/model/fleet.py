"""The fleet: which worker processes there should be, which there are, and what to do about the difference.

Pure: `handle(event, now)` changes the values here and returns effects; the supervisor does them. *Wanted* (jobs x slots, each of one
generation) and *actual* (workers) are two facts. A slot has an incumbent, which works, and perhaps an heir, which is to take over:
a good one is never ended before its heir is ready. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.model import crash_loop
from holdfast.model.crash_loop import Health
from holdfast.model.fleet_events import (
    Activate,
    Drain,
    Effect,
    Event,
    Exited,
    Hung,
    Join,
    Kill,
    Launch,
    Note,
    Part,
    Plans,
    Ready,
    Replace,
    Retire,
    Roll,
    RollBack,
    Scale,
    Spawn,
    SpawnFailed,
    Stop,
    Suspects,
    Tick,
)
from holdfast.model.life import Life, Step, Worker
from holdfast.model.rollout import Rollout
from holdfast.model.slots import (
    BESIDE,
    NOBODY,
    QUARANTINE_BESIDE,
    QUARANTINE_SLOT,
    JobFleet,
    Slot,
    beside,
    is_beside,
    is_quarantine,
    label,
)


@dataclass(slots=True)
class Fleet:
    """All jobs. `jitter()` gives a factor around 1, so that crash loops of many slots do not beat together."""

    jitter: Callable[[], float] = lambda: 1.0
    generation: int = 0  # the one that serves; while another is rolled out: the one before
    jobs: dict[str, JobFleet] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)  # every one that is not reaped
    rollout: Rollout | None = None
    stopping: bool = False
    spawned: int = 0

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; return what is to be done, in order."""
        effects: list[Effect] = []
        self._take(event, now, effects)
        self._overdue(now, effects)
        if self.rollout is not None and not self.stopping:
            self.rollout.go_on(self, now, effects)
        self._prove(now, effects)
        self._fill(now, effects)
        return effects

    def _take(self, event: Event, now: float, effects: list[Effect]) -> None:
        match event:
            case Ready(worker):
                self._ready(worker, now, effects)
            case Exited():
                self._exited(event, now, effects)
            case SpawnFailed(worker, how):
                self._exited(Exited(worker, how, born=False), now, effects)
            case Hung(worker, reason):
                self._hung(worker, reason, effects)
            case Suspects():
                self._suspects(event, now, effects)
            case Tick():
                pass
            case _:
                self._obey(event, now, effects)

    def _obey(
        self, event: Launch | Roll | RollBack | Replace | Scale | Retire | Part | Join | Stop, now: float, effects: list[Effect]
    ) -> None:
        match event:
            case Launch(generation, plans):
                self._launch(generation, plans)
            case Roll(generation, plans, probation):
                self.rollout = Rollout.begin(self, generation, plans, probation)
            case RollBack(reason):
                if self.rollout is not None:
                    self.rollout.roll_back(self, reason, now, effects)
            case Replace(worker, reason):
                self._replace(worker, reason, effects)
            case Scale(job, slots):
                self._scale(self.jobs[job], slots, now, effects)
            case Retire(job):
                self._retire_job(job, now, effects)
            case Part(jobs):
                self._part([self.jobs[name] for name in jobs if name in self.jobs])
            case Join(back):
                self._join(back, now, effects)
            case Stop(within):
                self._stop(within, now, effects)

    def next_deadline(self) -> float | None:
        """When a Tick is due; None when nothing waits for time."""
        times = [w.deadline for w in self.workers.values() if w.deadline is not None]
        if self.stopping or not self.generation:
            return min(times, default=None)
        for job in self.jobs.values():
            times += self._job_deadlines(job)
        if self.rollout is not None:
            times += self.rollout.deadlines(self)
        return min(times, default=None)

    def ready(self) -> bool:
        """Whether every wanted slot has an incumbent of its generation that gets work."""
        return all(self.settled(slot) for job in self.jobs.values() for slot in job.ordinary().values())

    @staticmethod
    def settled(slot: Slot) -> bool:
        """Whether the one who is wanted there is there, and gets work."""
        one = slot.incumbent
        return one is not None and one.life is Life.ACTIVE and one.generation == slot.generation

    def stopped(self) -> bool:
        """Whether a stop has come to its end."""
        return self.stopping and not self.workers

    def generations(self) -> set[int]:
        """Those that may still be asked for a worker."""
        wanted = {slot.generation for job in self.jobs.values() for slot in job.slots.values()}
        rolling = {self.rollout.target} if self.rollout is not None else set()
        return (wanted | rolling | {self.generation}) - {NOBODY}

    # --- one event each

    def _launch(self, generation: int, plans: Plans) -> None:
        self.generation = generation
        for name, plan in plans.items():
            self.jobs[name] = JobFleet(name, {generation: plan}, {number: Slot(generation) for number in range(plan.slots)})

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
        if old is None or (job.plan(heir.generation).overlap and job.plan(old.generation).overlap):
            slot.incumbent, slot.heir, slot.recycle = heir, None, False
            self._activate(heir, now, effects)
        if old is not None:
            self.drain(old, "replaced", now, effects)

    def _exited(self, event: Exited, now: float, effects: list[Effect]) -> None:
        worker = self.workers.pop(event.worker, None)
        if worker is None:
            return
        was, since = worker.life, worker.since
        worker.step(Step.EXITED, now, None)
        job, slot = self._place(worker)
        if was is not Life.DRAINING:
            effects.append(Note("worker.died", worker.id, event.how, worker.job))
            stable = was is Life.ACTIVE and (now - since >= crash_loop.STABLE_AFTER or (event.killed and not worker.killed))
            if event.unavailable:
                self._miss(job, slot, worker, event.how, now)
            else:
                self._account(job, slot, worker, stable or event.worked, now, effects)
            if self.rollout is not None:
                self.rollout.died(self, worker, was, event, now, effects)
        else:
            job.crashes.gone(worker.id, now)
        self._vacate(job, slot, worker, now, effects)

    def _vacate(self, job: JobFleet, slot: Slot, worker: Worker, now: float, effects: list[Effect]) -> None:
        """The place is free: an heir that is there takes it."""
        if slot.heir is worker:
            slot.heir = None
        elif slot.incumbent is worker:
            slot.incumbent, slot.heir, slot.recycle = slot.heir, None, False
            if slot.incumbent is not None and slot.incumbent.life is Life.READY:
                self._activate(slot.incumbent, now, effects)
        self._drop_if_empty(job, worker.slot)

    def _account(self, job: JobFleet, slot: Slot, worker: Worker, blameless: bool, now: float, effects: list[Effect]) -> None:
        """Is it a crash loop? Not when it had done something or somebody else killed it; and a quarantine worker is there to die."""
        slot.deaths = 1 if blameless else slot.deaths + 1
        slot.not_before = now + crash_loop.delay(slot.deaths, self.jitter())
        if blameless or worker.quarantine:
            job.crashes.gone(worker.id, now)
        elif job.crashes.crashed(worker.id, now, self.jitter()):
            rest = job.crashes.retry_at - now
            effects.append(Note("job.failed", "", f"its workers die again and again; next try in {rest:.0f} s", job.name, "error"))

    def _miss(self, job: JobFleet, slot: Slot, worker: Worker, how: str, now: float) -> None:
        """What it needs is away, which no worker is to blame for: others look again and again, and the job never fails by it."""
        if not slot.lacks:
            slot.lacks_since = now
        slot.lacks = how
        slot.misses += 1
        slot.not_before = now + crash_loop.wait(slot.misses, self.jitter())
        job.crashes.gone(worker.id, now)

    def _hung(self, name: str, reason: str, effects: list[Effect]) -> None:
        worker = self.workers.get(name)
        if worker is not None and not worker.killed:
            worker.killed = True
            effects += [Note("worker.hung", name, reason, worker.job, "error"), Kill(name, stacks=True)]

    def _suspects(self, event: Suspects, now: float, effects: list[Effect]) -> None:
        job, count = self.jobs.get(event.job), event.count
        if job is None:
            return
        number = QUARANTINE_BESIDE if event.beside else QUARANTINE_SLOT
        slot = job.slots.get(number)
        if count and slot is None:
            job.slots[number] = Slot(self.newest(job))
        elif count and slot is not None:
            slot.generation = self.newest(job)  # one that drains already is followed by another
        elif slot is not None:
            self.retire(job, number, "no suspects are left", now, effects)

    def newest(self, job: JobFleet) -> int:
        """The generation that is to serve this job."""
        rolling = self.rollout is not None and not self.rollout.failure and self.rollout.target in job.plans
        return self.rollout.target if rolling and self.rollout is not None else self.generation

    def _replace(self, name: str, reason: str, effects: list[Effect]) -> None:
        worker = self.workers.get(name)
        if worker is None or worker.life is not Life.ACTIVE or worker.quarantine:
            return
        _job, slot = self._place(worker)
        if slot.incumbent is worker and not slot.recycle and slot.generation != NOBODY:
            slot.recycle = True
            effects.append(Note("worker.recycled", name, reason, worker.job, "info"))

    def _scale(self, job: JobFleet, slots: int, now: float, effects: list[Effect]) -> None:
        job.scaled = slots
        for number in range(slots):
            job.slots.setdefault(number, Slot(self.generation)).generation = self.newest(job)
        for number in [n for n in job.ordinary() if n >= slots]:
            self.retire(job, number, "scaled down", now, effects)

    def _retire_job(self, name: str, now: float, effects: list[Effect]) -> None:
        job = self.jobs.get(name)
        if job is None:
            return
        job.removed = True
        for number in list(job.slots):
            self.retire(job, number, "its job is removed", now, effects)
        self._forget_if_empty(job)

    def _part(self, jobs: list[JobFleet]) -> None:
        for job in jobs:
            wanted = {number: slot.generation for number, slot in job.ordinary().items()}
            job.move({number: beside(number) for number in job.slots}, self.workers.values())
            job.slots |= {number: Slot(generation) for number, generation in wanted.items()}

    def _join(self, back: bool, now: float, effects: list[Effect]) -> None:
        for job in list(self.jobs.values()):
            theirs = [number for number in job.slots if is_beside(number)]
            if not back:
                for number in theirs:
                    self.retire(job, number, "the ingress that it worked for has gone", now, effects)
            elif theirs:
                self._give_way(job, theirs, now, effects)

    def _give_way(self, job: JobFleet, theirs: list[int], now: float, effects: list[Effect]) -> None:
        """Those beside get their places back, as many as are wanted now; who came instead drains, and has no place any more."""
        wanted = job.ordinary()
        for number in [number for number in job.slots if number not in theirs]:
            slot = job.slots.pop(number)
            for worker in (slot.incumbent, slot.heir):
                if worker is not None:
                    self.drain(worker, "its ingress is not wanted", now, effects)
        job.move({number: number - BESIDE if number >= BESIDE else QUARANTINE_SLOT for number in theirs}, self.workers.values())
        for number in wanted:
            job.slots.setdefault(number, Slot(self.generation)).generation = self.generation
        for number in [number for number in job.ordinary() if number not in wanted]:
            self.retire(job, number, "scaled down", now, effects)

    def _stop(self, within: float, now: float, effects: list[Effect]) -> None:
        self.stopping = True
        for worker in list(self.workers.values()):
            self.drain(worker, "stop", now, effects)
            worker.deadline = min(worker.deadline or now + within, now + within)

    # --- what all share

    def retire(self, job: JobFleet, number: int, reason: str, now: float, effects: list[Effect]) -> None:
        """Nobody is wanted in this slot any more."""
        slot = job.slots[number]
        slot.generation = NOBODY
        for worker in (slot.incumbent, slot.heir):
            if worker is not None:
                self.drain(worker, reason, now, effects)
        self._drop_if_empty(job, number)

    def drain(self, worker: Worker, reason: str, now: float, effects: list[Effect]) -> None:
        """Let it finish what it has begun, and go."""
        if worker.step(Step.DRAIN, now, self.jobs[worker.job].plan(worker.generation).drain_limit):
            worker.reason = reason
            effects.append(Drain(worker.id))

    def _job_deadlines(self, job: JobFleet) -> list[float]:
        times = []
        if job.crashes.health is Health.TRYING and (trial := self.workers.get(job.crashes.trial)) and trial.life is Life.ACTIVE:
            times.append(trial.since + crash_loop.STABLE_AFTER)
        vacant = [s for s in job.slots.values() if s.generation != NOBODY and (s.incumbent is None or s.wants_heir())]
        if job.crashes.health is Health.FAILED:
            return times + ([job.crashes.retry_at] if vacant else [])
        return times + ([slot.not_before for slot in vacant] if job.crashes.health is Health.WELL else [])

    def _overdue(self, now: float, effects: list[Effect]) -> None:
        for worker in self.workers.values():
            if worker.deadline is not None and worker.deadline <= now:
                worker.deadline, worker.killed = None, True  # the kill ends it; its exit is what counts
                effects += [Note("worker.overdue", worker.id, f"still {worker.life.name}", worker.job), Kill(worker.id, stacks=True)]

    def _prove(self, now: float, effects: list[Effect]) -> None:
        """A worker that is tried after its job had failed, and stays, makes the job well again."""
        for job in self.jobs.values():
            trial = self.workers.get(job.crashes.trial)
            if trial is not None and trial.life is Life.ACTIVE and now - trial.since >= crash_loop.STABLE_AFTER:
                job.crashes.proved(trial.id)
                effects.append(Note("job.recovered", "", "a worker of it is stable", job.name))

    def _fill(self, now: float, effects: list[Effect]) -> None:
        """Spawn who is wanted and not there."""
        if self.stopping or not self.generation:
            return
        for job in self.jobs.values():
            for number, slot in job.slots.items():
                if slot.generation == NOBODY or slot.not_before > now or not job.crashes.may_start(now):
                    continue
                if slot.incumbent is None:
                    slot.incumbent = self._spawn(job, number, slot, now, effects)
                elif slot.wants_heir():
                    slot.heir = self._spawn(job, number, slot, now, effects)

    def _spawn(self, job: JobFleet, number: int, slot: Slot, now: float, effects: list[Effect]) -> Worker:
        self.spawned += 1
        quarantine = is_quarantine(number)
        name = f"{job.name}/{label(number)}.{self.spawned}"
        limit = job.plan(slot.generation).start_limit
        worker = Worker(name, job.name, number, slot.generation, quarantine, since=now, deadline=now + limit)
        self.workers[name] = worker
        if not quarantine:
            job.crashes.started(name)
        effects.append(Spawn(name, job.name, number, slot.generation, quarantine))
        return worker

    def _activate(self, worker: Worker, now: float, effects: list[Effect]) -> None:
        if worker.step(Step.ACTIVATED, now, None):
            slot = self._place(worker)[1]
            slot.lacks, slot.misses = "", 0
            effects.append(Activate(worker.id))

    def _place(self, worker: Worker) -> tuple[JobFleet, Slot]:
        job = self.jobs[worker.job]
        return job, job.slots.get(worker.slot) or Slot(NOBODY)

    def _drop_if_empty(self, job: JobFleet, number: int) -> None:
        slot = job.slots.get(number)
        if slot is not None and slot.generation == NOBODY and slot.incumbent is None and slot.heir is None:
            del job.slots[number]
        self._forget_if_empty(job)

    def _forget_if_empty(self, job: JobFleet) -> None:
        if job.removed and not job.slots and not any(worker.job == job.name for worker in self.workers.values()):
            self.jobs.pop(job.name, None)
