"""The fleet, driven by random histories: what must hold in each of them, and faults that the rules catch."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from holdfast.model import fleet as f
from holdfast.model.life import LIFE, Life, Step


def _fleet(slots: int = 2, **options: object) -> f.Fleet:
    job = f.JobFleet("Fee", slots={n: f.Slot() for n in range(slots)}, **options)  # type: ignore[arg-type]
    return f.Fleet({"Fee": job})


def _spawned(effects: list[f.Effect]) -> list[str]:
    return [e.worker for e in effects if isinstance(e, f.Spawn)]


def test_the_life_table_is_total_and_goes_one_way() -> None:
    assert set(LIFE) == set(itertools.product(Life, Step))
    assert all(after >= before for (before, _), after in LIFE.items())


def test_nothing_is_spawned_before_a_generation_is_loaded() -> None:
    fleet = _fleet()
    assert fleet.handle(f.Tick(), 0) == []
    assert len(_spawned(fleet.handle(f.Launch(1), 0))) == 2


def test_a_dead_worker_is_replaced_at_once() -> None:
    fleet = _fleet(1)
    (name,) = _spawned(fleet.handle(f.Launch(1), 0))
    assert fleet.handle(f.Ready(name), 1) == [f.Activate(name)]
    assert len(_spawned(fleet.handle(f.Exited(name, "killed"), 2))) == 1


def test_a_crash_loop_cools_down_and_a_stable_time_resets_it() -> None:
    fleet, now = _fleet(1), 0.0
    (name,) = _spawned(fleet.handle(f.Launch(1), now))
    starts = 1
    while now < 60:
        fleet.handle(f.Exited(name, "exit status 1"), now)
        now = max(now, fleet.next_deadline() or now)
        name = next(iter(fleet.workers), "") or _spawned(fleet.handle(f.Tick(), now))[0]
        starts += 1
    assert starts <= 15
    fleet.handle(f.Ready(name), now)
    assert _spawned(fleet.handle(f.Exited(name, "killed"), now + 100))


def test_workers_that_did_something_are_replaced_at_once_however_often_they_are_killed() -> None:
    fleet = _fleet(1)
    (name,) = _spawned(fleet.handle(f.Launch(1), 0))
    for second in range(100):
        fleet.handle(f.Ready(name), second / 2)
        (name,) = _spawned(fleet.handle(f.Exited(name, "killed by SIGKILL", blameless=True), second / 2))


def test_an_heir_is_active_before_its_incumbent_drains() -> None:
    fleet = _fleet(1)
    (old,) = _spawned(fleet.handle(f.Launch(1), 0))
    fleet.handle(f.Ready(old), 0)
    (new,) = _spawned(fleet.handle(f.Replace("Fee", 0), 1))
    assert fleet.handle(f.Ready(new), 2) == [f.Activate(new), f.Drain(old)]


def test_without_overlap_the_heir_waits_for_the_end_of_its_incumbent() -> None:
    fleet = _fleet(1, overlap=False)
    (old,) = _spawned(fleet.handle(f.Launch(1), 0))
    fleet.handle(f.Ready(old), 0)
    (new,) = _spawned(fleet.handle(f.Replace("Fee", 0), 1))
    assert fleet.handle(f.Ready(new), 2) == [f.Drain(old)]
    assert fleet.handle(f.Exited(old, "exit status 0"), 3) == [f.Activate(new)]


def test_an_heir_that_dies_leaves_its_incumbent_alone() -> None:
    fleet = _fleet(1)
    (old,) = _spawned(fleet.handle(f.Launch(1), 0))
    fleet.handle(f.Ready(old), 0)
    (new,) = _spawned(fleet.handle(f.Replace("Fee", 0), 1))
    effects = fleet.handle(f.Exited(new, "exit status 1"), 2)
    assert [type(e) for e in effects] == [f.Note]
    assert fleet.ready()


def test_quarantine_comes_and_goes_with_its_suspects() -> None:
    fleet = _fleet(1)
    fleet.handle(f.Launch(1), 0)
    (guest,) = _spawned(fleet.handle(f.Suspects("Fee", 3), 1))
    assert fleet.workers[guest].quarantine
    assert f.Drain(guest) in fleet.handle(f.Suspects("Fee", 0), 2)
    fleet.handle(f.Exited(guest, "exit status 0"), 3)
    assert f.QUARANTINE_SLOT not in fleet.jobs["Fee"].slots


def test_suspects_that_come_while_quarantine_drains_get_a_new_one() -> None:
    fleet = _fleet(1)
    fleet.handle(f.Launch(1), 0)
    (guest,) = _spawned(fleet.handle(f.Suspects("Fee", 1), 1))
    fleet.handle(f.Suspects("Fee", 0), 2)
    fleet.handle(f.Suspects("Fee", 2), 3)
    assert _spawned(fleet.handle(f.Exited(guest, "exit status 0"), 4))


def test_a_hung_worker_shows_its_stacks_and_dies() -> None:
    fleet = _fleet(1)
    (name,) = _spawned(fleet.handle(f.Launch(1), 0))
    assert f.Kill(name, stacks=True) in fleet.handle(f.Hung(name, "30 s in handle"), 1)


class Histories(RuleBasedStateMachine):
    """Random events in any order, also late and senseless ones."""

    make = staticmethod(lambda: _fleet(2))
    names = Bundle("names")

    @initialize(overlap=st.booleans())
    def start(self, overlap: bool) -> None:
        self.fleet = self.make()
        self.fleet.jobs["Fee"].overlap = overlap
        self.now = 0.0
        self.lives: dict[str, Life] = {}
        self.stopped = False

    def _do(self, event: f.Event) -> None:
        effects = self.fleet.handle(event, self.now)
        if self.stopped:
            assert not _spawned(effects), "spawned after stop"
        self.stopped = self.fleet.stopping

    def _pick(self, number: int) -> str:
        names = sorted(self.fleet.workers)
        return names[number % len(names)] if names else "Fee/0.999"

    @rule()
    def launch(self) -> None:
        self._do(f.Launch(self.fleet.generation + 1))

    @rule(number=st.integers(0, 9))
    def ready(self, number: int) -> None:
        self._do(f.Ready(self._pick(number)))

    @rule(number=st.integers(0, 9))
    def exited(self, number: int) -> None:
        self._do(f.Exited(self._pick(number), "killed"))

    @rule(number=st.integers(0, 9))
    def spawn_failed(self, number: int) -> None:
        self._do(f.SpawnFailed(self._pick(number), "no memory"))

    @rule(number=st.integers(0, 9))
    def hung(self, number: int) -> None:
        self._do(f.Hung(self._pick(number), "30 s in handle"))

    @rule(slot=st.integers(-1, 3))
    def replace(self, slot: int) -> None:
        self._do(f.Replace("Fee", slot))

    @rule(slots=st.integers(0, 4))
    def scale(self, slots: int) -> None:
        self._do(f.Scale("Fee", slots))

    @rule(count=st.integers(0, 2))
    def suspects(self, count: int) -> None:
        self._do(f.Suspects("Fee", count))

    @rule(seconds=st.floats(0, 60))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds
        self._do(f.Tick())

    @rule(within=st.floats(0, 30))
    def stop(self, within: float) -> None:
        self._do(f.Stop(within))

    @invariant()
    def a_slot_has_one_incumbent_and_one_heir_at_most(self) -> None:
        for number, slot in self.fleet.jobs["Fee"].slots.items():
            here = [w for w in self.fleet.workers.values() if w.slot == number and w.life is not Life.DRAINING]
            assert all(w is slot.incumbent or w is slot.heir for w in here), "a worker without a place"
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

    def teardown(self) -> None:
        """From anywhere a stop converges: whoever is told to go, or killed, goes."""
        if not hasattr(self, "fleet"):
            return
        self._do(f.Stop(1.0))
        self.now += 2.0
        self._do(f.Tick())
        for name in list(self.fleet.workers):
            self._do(f.Exited(name, "exit status 0"))
        assert self.fleet.stopped(), "stop does not converge"


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class _SpawnsAfterStop(f.Fleet):
    def _fill(self, now: float, effects: list[f.Effect]) -> None:
        stopping, self.stopping = self.stopping, False
        super()._fill(now, effects)
        self.stopping = stopping


class _TwoIncumbents(f.Fleet):
    def _exited(self, name: str, how: str, blameless: bool, now: float, effects: list[f.Effect]) -> None:
        super()._exited(next(iter(self.workers), name), how, blameless, now, effects)
        for slot in self.jobs["Fee"].slots.values():
            slot.incumbent = None


class _LifeGoesBack(f.Fleet):
    def _ready(self, name: str, now: float, effects: list[f.Effect]) -> None:
        super()._ready(name, now, effects)
        for worker in self.workers.values():
            if worker.life is Life.DRAINING:
                worker.life = Life.ACTIVE


class _ForgetsOnStop(f.Fleet):
    def _stop(self, within: float, now: float, effects: list[f.Effect]) -> None:
        pass


@pytest.mark.parametrize("faulty", [_SpawnsAfterStop, _TwoIncumbents, _LifeGoesBack, _ForgetsOnStop])
def test_the_rules_catch_a_seeded_fault(faulty: type[f.Fleet]) -> None:
    class Seeded(Histories):
        make = staticmethod(lambda: faulty({"Fee": f.JobFleet("Fee", slots={0: f.Slot(), 1: f.Slot()})}))

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            Seeded, settings=settings(max_examples=200, stateful_step_count=30, deadline=None, database=None, report_multiple_bugs=False)
        )
