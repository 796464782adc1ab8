"""The fleet, driven by random histories: what must hold in each of them, and faults that the rules catch."""

import dataclasses
import json

import pytest
from fleet_world import World, plan
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from holdfast.model import fleet_events as f
from holdfast.model.fleet import Fleet
from holdfast.model.fleet_state import FleetState
from holdfast.model.frozen import freeze, thaw
from holdfast.model.life import Life, Worker
from holdfast.model.rollout import Rollout
from holdfast.model.slots import NOBODY, JobFleet, Slot, is_beside

JOBS = ("Fee", "Mail")
plans = st.dictionaries(st.sampled_from(JOBS), st.integers(0, 3), min_size=1)


class Histories(RuleBasedStateMachine):
    """Random events in any order, also late and senseless ones."""

    make = staticmethod(Fleet)

    @initialize(overlap=st.booleans())
    def start(self, overlap: bool) -> None:
        self.overlap = overlap
        self.world = World(fleet=self.make(), launch=False)
        self.lives: dict[str, Life] = {}
        self.newest = 1
        self.wanted: dict[int, dict[str, int]] = {1: dict.fromkeys(JOBS, 2)}
        self._do(f.Launch(1, self._plans(1)))

    @property
    def fleet(self) -> Fleet:
        return self.world.fleet

    def _plans(self, generation: int) -> dict[str, f.Plan]:
        return {job: plan(slots, overlap=self.overlap) for job, slots in self.wanted[generation].items()}

    def _do(self, event: f.Event) -> None:
        stopped = self.fleet.stopping
        effects = self.world.do(event)
        if stopped:
            assert not [e for e in effects if isinstance(e, f.Spawn)], "spawned after stop"
        if isinstance(event, f.Ready) and self.overlap:
            self._nobody_goes_before_his_heir_works(effects)
        for effect in effects:
            if isinstance(effect, f.Spawn):
                assert effect.generation in {1, *self.wanted}
            if isinstance(effect, f.RolledOut):
                self._all_new(effect.generation)
            if isinstance(effect, f.RolledBack):
                assert not [w for w in self.fleet.workers.values() if w.generation == effect.generation], "the new code is still there"
        assert not self.fleet.next_deadline() or self.fleet.next_deadline() > self.world.now, "a deadline that nobody looks at"

    def _nobody_goes_before_his_heir_works(self, effects: list[f.Effect]) -> None:
        for drained in [self.fleet.workers[e.worker] for e in effects if isinstance(e, f.Drain)]:
            slot = self.fleet.jobs[drained.job].slots.get(drained.slot)
            if slot is not None and slot.generation != NOBODY:
                assert slot.incumbent is not None
                assert slot.incumbent.life is Life.ACTIVE, "drained before its heir was active"

    def _all_new(self, generation: int) -> None:
        for job in self.fleet.jobs.values():
            if job.removed:
                continue
            for number, slot in job.ordinary().items():
                assert slot.generation == generation, "a mixture"
                assert number < max(self.wanted[generation].get(job.name, 0), job.scaled or 0), "more than the configuration wants"
            assert len(job.ordinary()) >= self.wanted[generation][job.name] or job.scaled is not None

    def _pick(self, number: int) -> str:
        names = sorted(self.fleet.workers)
        return names[number % len(names)] if names else "Fee/0.999"

    @precondition(lambda self: self.fleet.rollout is None and not [j for j in self.fleet.jobs.values() if j.removed])
    @rule(wanted=plans, probation=st.sampled_from([0.0, 3.0]))
    def roll(self, wanted: dict[str, int], probation: float) -> None:
        if self.fleet.stopping:
            return
        self.newest += 1
        self.wanted[self.newest] = wanted
        self._do(f.Roll(self.newest, self._plans(self.newest), probation))

    @rule()
    def roll_back(self) -> None:
        self._do(f.RollBack("for no reason"))

    @rule(number=st.integers(0, 9))
    def ready(self, number: int) -> None:
        self._do(f.Ready(self._pick(number)))

    @rule(number=st.integers(0, 9), killed=st.booleans(), worked=st.booleans())
    def exited(self, number: int, killed: bool, worked: bool) -> None:
        self._do(f.Exited(self._pick(number), "ended", killed, worked))

    @rule(number=st.integers(0, 9))
    def unavailable(self, number: int) -> None:
        name = self._pick(number)
        if name not in self.fleet.workers or self.fleet.workers[name].life in (Life.STARTING, Life.DRAINING):
            self._do(f.Exited(name, "the store is not to be had", unavailable=True))

    @rule(number=st.integers(0, 9))
    def spawn_failed(self, number: int) -> None:
        name = self._pick(number)
        if name not in self.fleet.workers or self.fleet.workers[name].life in (Life.STARTING, Life.DRAINING):
            self._do(f.SpawnFailed(name, "no memory"))

    @rule(number=st.integers(0, 9))
    def hung(self, number: int) -> None:
        self._do(f.Hung(self._pick(number), "30 s in handle"))

    @rule(number=st.integers(0, 9))
    def replace(self, number: int) -> None:
        self._do(f.Replace(self._pick(number), "max_age"))

    @precondition(lambda self: self.fleet.rollout is None)
    @rule(slots=st.integers(0, 4), number=st.integers(0, 1))
    def scale(self, slots: int, number: int) -> None:
        names = [job.name for job in self.fleet.jobs.values() if not job.removed]
        if names and not self.fleet.stopping:
            self._do(f.Scale(names[number % len(names)], slots))

    @rule(count=st.integers(0, 2), job=st.sampled_from(JOBS))
    def suspects(self, count: int, job: str) -> None:
        self._do(f.Suspects(job, count))

    @precondition(lambda self: self.fleet.rollout is None and not self.fleet.stopping)
    @rule()
    def upgrade(self) -> None:
        """The next program goes on with what this one has written down."""
        data = json.loads(json.dumps(freeze(FleetState.of(self.fleet))))
        restored = thaw(FleetState, data).fleet(self.fleet.jitter)
        self.world.fleet = type(self.fleet)(**{one.name: getattr(restored, one.name) for one in dataclasses.fields(restored)})

    def _beside(self) -> bool:
        return any(is_beside(number) for job in self.fleet.jobs.values() for number in job.slots)

    @precondition(lambda self: self.fleet.rollout is None and not self.fleet.stopping and not self._beside())
    @rule(jobs=st.sets(st.sampled_from(JOBS), min_size=1))
    def another_ingress_comes(self, jobs: set[str]) -> None:
        before = {w.id for w in self.fleet.workers.values() if w.life is not Life.DRAINING}
        self._do(f.Part(tuple(jobs)))
        assert before <= {w.id for w in self.fleet.workers.values() if w.life is not Life.DRAINING}, "somebody was told to go"

    @precondition(lambda self: self._beside())
    @rule()
    def the_old_ingress_goes(self) -> None:
        self._do(f.Join())

    @precondition(lambda self: self.fleet.rollout is None and self._beside())
    @rule()
    def the_new_ingress_is_given_up(self) -> None:
        self._do(f.Join(back=True))
        assert not self._beside()

    @rule()
    def retire_removed(self) -> None:
        for job in [job.name for job in self.fleet.jobs.values() if job.removed]:
            self._do(f.Retire(job))

    @rule(seconds=st.floats(0, 60))
    def time_goes_on(self, seconds: float) -> None:
        self.world.now += seconds
        self._do(f.Tick())

    @rule(within=st.floats(0, 30))
    def stop(self, within: float) -> None:
        if within < 1.0:  # seldom: nothing happens after it
            self._do(f.Stop(within))

    @invariant()
    def a_slot_has_one_incumbent_and_one_heir_at_most(self) -> None:
        for worker in self.fleet.workers.values():
            slot = self.fleet.jobs[worker.job].slots.get(worker.slot)
            placed = slot is not None and (worker is slot.incumbent or worker is slot.heir)
            assert placed or worker.life is Life.DRAINING, "a worker without a place"
        for job in self.fleet.jobs.values():
            for slot in job.slots.values():
                assert slot.incumbent is None or slot.incumbent is not slot.heir

    @invariant()
    def a_life_never_goes_back(self) -> None:
        for name, worker in self.fleet.workers.items():
            assert worker.life >= self.lives.get(name, Life.STARTING), "a life went back"
            self.lives[name] = worker.life

    @invariant()
    def who_is_not_ready_has_a_deadline_or_was_killed(self) -> None:
        for worker in self.fleet.workers.values():
            if worker.life in (Life.STARTING, Life.DRAINING):
                assert worker.deadline is not None or worker.killed, "no deadline"

    @invariant()
    def without_a_rollout_there_is_one_generation(self) -> None:
        if self.fleet.rollout is None and not self.fleet.stopping:
            for job in self.fleet.jobs.values():
                if not job.removed:
                    assert {slot.generation for slot in job.slots.values()} <= {self.fleet.generation, NOBODY}, "a mixture"

    def teardown(self) -> None:
        """From anywhere, when all goes well, a rollout comes to its verdict and every slot is served; and a stop converges."""
        if not hasattr(self, "world"):
            return
        if not self.fleet.stopping:
            self._comes_to_a_verdict()
        self._do(f.Stop(1.0))
        self.world.now += 2.0
        self._do(f.Tick())
        for name in list(self.fleet.workers):
            self._do(f.Exited(name, "exit status 0"))
        assert self.fleet.stopped(), "stop does not converge"

    def _comes_to_a_verdict(self) -> None:
        for _ in range(60):
            for worker in [worker for worker in self.fleet.workers.values() if worker.killed]:
                self._do(f.Exited(worker.id, "killed by SIGKILL", killed=True))
            self.world.settle()
            deadline = self.fleet.next_deadline()
            if deadline is None:
                break
            self.world.now = deadline
            self._do(f.Tick())
        assert self.fleet.rollout is None, "no verdict"
        assert self.fleet.ready(), "a slot is not served"
        assert {w.generation for w in self.fleet.workers.values()} <= {self.fleet.generation}, "a mixture at the end"
        self._do(f.Join())
        self.world.settle()
        assert not self._beside(), "somebody works for an ingress that has gone"
        for job, slots in self.wanted[self.fleet.generation].items():
            scaled = self.fleet.jobs[job].scaled
            assert len(self.fleet.jobs[job].ordinary()) == (slots if scaled is None else scaled), "not as many as are wanted"


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


class _SpawnsAfterStop(Fleet):
    def _fill(self, now: float, effects: list[f.Effect]) -> None:
        stopping, self.stopping = self.stopping, False
        super()._fill(now, effects)
        self.stopping = stopping


class _LosesAWorker(Fleet):
    def _vacate(self, job: JobFleet, slot: Slot, worker: Worker, now: float, effects: list[f.Effect]) -> None:
        super()._vacate(job, slot, worker, now, effects)
        slot.incumbent = None


class _LifeGoesBack(Fleet):
    def _ready(self, name: str, now: float, effects: list[f.Effect]) -> None:
        super()._ready(name, now, effects)
        for worker in self.workers.values():
            if worker.life is Life.DRAINING:
                worker.life = Life.ACTIVE


class _ForgetsOnStop(Fleet):
    def _stop(self, within: float, now: float, effects: list[f.Effect]) -> None:
        pass


class _DrainsTooEarly(Fleet):
    def _inherit(self, job: JobFleet, slot: Slot, heir: Worker, now: float, effects: list[f.Effect]) -> None:
        assert slot.incumbent is not None
        self.drain(slot.incumbent, "replaced", now, effects)


class _RespawnsTheNewest(Fleet):
    """A replacement runs the newest code there is, and not what is wanted in its slot."""

    def _spawn(self, job: JobFleet, number: int, slot: Slot, now: float, effects: list[f.Effect]) -> Worker:
        slot.generation = max(job.plans)
        return super()._spawn(job, number, slot, now, effects)


class _FaultyRollout(Fleet):
    """Rolls out by a faulty `Rollout`."""

    kind: type[Rollout]

    def handle(self, event: f.Event, now: float) -> list[f.Effect]:
        effects = super().handle(event, now)
        if type(self.rollout) is Rollout:
            self.rollout.__class__ = self.kind
        return effects


class _AcceptsHalf(Rollout):
    __slots__ = ()

    def _accept(self, fleet: Fleet, effects: list[f.Effect]) -> None:
        super()._accept(fleet, effects)

    def _step(self, fleet: Fleet, now: float, effects: list[f.Effect]) -> bool:
        self.todo.clear()
        return super()._step(fleet, now, effects)


class _GivesBackHalf(Rollout):
    __slots__ = ()

    def _give_back(self, fleet: Fleet, job: JobFleet, now: float, effects: list[f.Effect]) -> None:
        if job.name == "Fee":
            super()._give_back(fleet, job, now, effects)


class _SaysItTooEarly(Rollout):
    __slots__ = ()

    def _finish_back(self, fleet: Fleet, effects: list[f.Effect]) -> None:
        fleet.rollout = None
        effects.append(f.RolledBack(self.target, self.failure))


class _KeepsSurplus(Rollout):
    __slots__ = ()

    def _give(self, fleet: Fleet, name: str, number: int, now: float, effects: list[f.Effect]) -> None:
        fleet.jobs[name].slots.setdefault(number, Slot(self.target)).generation = self.target


class _TellsThemToGo(Fleet):
    """Another ingress comes, and those who work for the old one are told to go."""

    def _part(self, jobs: list[JobFleet]) -> None:
        super()._part(jobs)
        for worker in self.workers.values():
            worker.life = Life.DRAINING


class _KeepsThemForEver(Fleet):
    def _join(self, back: bool, now: float, effects: list[f.Effect]) -> None:
        if back:
            super()._join(back, now, effects)


class _LeavesThemBehind(Fleet):
    """Who works for the old ingress stays where the others are to be."""

    def _part(self, jobs: list[JobFleet]) -> None:
        places = {worker.id: worker.slot for worker in self.workers.values()}
        super()._part(jobs)
        for worker in self.workers.values():
            worker.slot = places[worker.id]


def _rolls_by(rollout: type[Rollout]) -> type[Fleet]:
    return type(f"Fleet{rollout.__name__}", (_FaultyRollout,), {"kind": rollout})


FAULTS = [
    *(_TellsThemToGo, _KeepsThemForEver, _LeavesThemBehind),
    *(_SpawnsAfterStop, _LosesAWorker, _LifeGoesBack, _ForgetsOnStop, _DrainsTooEarly, _RespawnsTheNewest),
    *(_rolls_by(rollout) for rollout in (_AcceptsHalf, _GivesBackHalf, _SaysItTooEarly, _KeepsSurplus)),
]


@pytest.mark.parametrize("faulty", FAULTS)
def test_the_rules_catch_a_seeded_fault(faulty: type[Fleet]) -> None:
    class Seeded(Histories):
        make = staticmethod(faulty)

    with pytest.raises((AssertionError, KeyError, ValueError, ExceptionGroup)):
        run_state_machine_as_test(
            Seeded,
            settings=settings(
                max_examples=1000,
                derandomize=True,
                stateful_step_count=30,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                phases=[Phase.generate],
            ),
        )
