"""The fleet without a rollout: slots, deaths, crash loops, quarantine, scale, recycling, stop."""

import itertools

import pytest
from fleet_world import World

from holdfast.model import crash_loop
from holdfast.model import fleet_events as f
from holdfast.model.fleet import Fleet
from holdfast.model.life import LIFE, Life, Step
from holdfast.model.slots import QUARANTINE_SLOT


def _spawned(effects: list[f.Effect]) -> list[str]:
    return [e.worker for e in effects if isinstance(e, f.Spawn)]


def test_the_life_table_is_total_and_goes_one_way() -> None:
    assert set(LIFE) == set(itertools.product(Life, Step))
    assert all(after >= before for (before, _), after in LIFE.items())


def test_nothing_is_spawned_before_a_generation_is_loaded() -> None:
    world = World(launch=False)
    assert world.do(f.Tick()) == []
    assert len(_spawned(world.do(f.Launch(1, {"Fee": f.Plan(2)})))) == 2


def test_a_dead_worker_is_replaced_at_once_by_its_generation() -> None:
    world = World(1)
    (name,) = world.starting
    assert world.do(f.Ready(name)) == [f.Activate(name)]
    spawns = [e for e in world.do(f.Exited(name, "killed")) if isinstance(e, f.Spawn)]
    assert [e.generation for e in spawns] == [1]


def _crash(world: World, until: float) -> list[float]:
    """Every worker dies as soon as it starts; the times of all starts."""
    starts = [world.now] * len(world.starting)
    while world.now < until:
        while world.starting:
            starts += [world.now] * len(_spawned(world.do(f.Exited(world.starting[0], "exit status 1"))))
        deadline = world.fleet.next_deadline()
        assert deadline is not None
        if deadline >= until:
            break
        starts += [deadline] * len(_spawned(world.do(f.Tick(), deadline)))
    return starts


def test_a_store_that_is_away_is_waited_for_and_no_job_fails_by_it() -> None:
    """However long: every few seconds one looks again in each slot, and what it lacks is told until it has it."""
    world, looks = World(2), 0
    while world.now < 3600.0:
        while world.starting:
            world.do(f.Exited(world.starting[0], "the store is not to be had", unavailable=True))
            looks += 1
        deadline = world.fleet.next_deadline()
        assert deadline is not None
        assert deadline - world.now <= crash_loop.LONGEST_WAIT + 1e-6
        world.do(f.Tick(), deadline)
    assert 2 * 3600 / crash_loop.LONGEST_WAIT <= looks <= 2 * 3600 / crash_loop.LONGEST_WAIT + 40
    assert not [e for e in world.effects if isinstance(e, f.Note) and e.event == "job.failed"]
    slots = world.fleet.jobs["Fee"].slots.values()
    assert {(slot.lacks, slot.lacks_since) for slot in slots} == {("the store is not to be had", 0.0)}
    world.settle()
    assert {(slot.lacks, slot.misses) for slot in slots} == {("", 0)}


@pytest.mark.parametrize("slots", [1, 4])
def test_a_crash_loop_has_a_budget_a_minute_and_then_the_job_has_failed(slots: int) -> None:
    world = World(slots)
    starts = _crash(world, 600.0)
    for at in starts:
        assert sum(at <= other < at + 60.0 for other in starts) <= slots + crash_loop.BUDGET
    assert [e.job for e in world.effects if isinstance(e, f.Note) and e.event == "job.failed"][:1] == ["Fee"]
    rests = [round(b - a) for a, b in itertools.pairwise(starts) if b - a >= crash_loop.FIRST_REST]
    assert rests[:4] == [30, 60, 120, 240], "the rests grow"


def test_a_job_that_failed_is_tried_with_one_worker_and_is_well_again_when_that_one_lasts() -> None:
    world = World(3)
    _crash(world, 20.0)
    deadline = world.fleet.next_deadline()
    assert deadline is not None
    world.do(f.Tick(), deadline)
    (trial,) = world.starting
    world.do(f.Ready(trial))
    assert world.starting == []
    deadline = world.fleet.next_deadline()
    assert deadline == world.now + crash_loop.STABLE_AFTER
    effects = world.do(f.Tick(), deadline)
    assert "job.recovered" in [e.event for e in effects if isinstance(e, f.Note)]
    assert len(_spawned(effects)) == 2


def test_the_others_run_on_while_a_job_has_failed() -> None:
    world = World(launch=False)
    world.do(f.Launch(1, {"Bad": f.Plan(1), "Good": f.Plan(1)}))
    good = next(name for name in world.starting if name.startswith("Good"))
    world.do(f.Ready(good))
    _crash(world, 20.0)
    assert world.fleet.jobs["Bad"].crashes.health is crash_loop.Health.FAILED
    assert world.serving("Good") == {0: 1}
    assert len(_spawned(world.do(f.Exited(good, "killed by SIGKILL", killed=True)))) == 1


def test_workers_that_did_something_or_were_killed_are_replaced_at_once_however_often() -> None:
    world = World(1)
    for second in range(100):
        (name,) = world.starting
        world.do(f.Ready(name), second / 2)
        world.do(f.Exited(name, "killed by SIGKILL", killed=second % 2 == 0, worked=second % 2 == 1))
    assert world.fleet.jobs["Fee"].crashes.health is crash_loop.Health.WELL


def test_a_recycled_worker_goes_when_its_heir_is_active() -> None:
    world = World(1)
    world.settle()
    old = world.at(0)
    (new,) = _spawned(world.do(f.Replace(old, "max_age")))
    assert _spawned(world.do(f.Replace(old, "max_rss"))) == []
    assert world.do(f.Ready(new)) == [f.Activate(new), f.Drain(old)]


def test_without_overlap_the_heir_waits_for_the_end_of_its_incumbent() -> None:
    world = World(1, overlap=False)
    world.settle()
    old = world.at(0)
    (new,) = _spawned(world.do(f.Replace(old, "max_age")))
    assert world.do(f.Ready(new)) == [f.Drain(old)]
    assert world.do(f.Exited(old, "exit status 0")) == [f.Activate(new)]


def test_an_heir_that_dies_leaves_its_incumbent_alone() -> None:
    world = World(1)
    world.settle()
    (new,) = _spawned(world.do(f.Replace(world.at(0), "max_age")))
    world.do(f.Exited(new, "exit status 1"))
    assert world.fleet.ready()


def test_quarantine_comes_and_goes_with_its_suspects() -> None:
    world = World(1)
    (guest,) = _spawned(world.do(f.Suspects("Fee", 3)))
    assert world.fleet.workers[guest].quarantine
    assert f.Drain(guest) in world.do(f.Suspects("Fee", 0))
    world.do(f.Exited(guest, "exit status 0"))
    assert QUARANTINE_SLOT not in world.fleet.jobs["Fee"].slots


def test_suspects_that_come_while_quarantine_drains_get_a_new_one() -> None:
    world = World(1)
    (guest,) = _spawned(world.do(f.Suspects("Fee", 1)))
    world.do(f.Suspects("Fee", 0))
    world.do(f.Suspects("Fee", 2))
    assert _spawned(world.do(f.Exited(guest, "exit status 0")))


def test_deaths_in_quarantine_are_no_crash_loop() -> None:
    world = World(1)
    world.settle()
    world.do(f.Suspects("Fee", 1))
    for _ in range(50):
        for name in world.starting:
            world.do(f.Ready(name))
            world.do(f.Exited(name, "killed by SIGSEGV"))
        world.do(f.Tick(), world.now + 40.0)
    assert world.fleet.jobs["Fee"].crashes.health is crash_loop.Health.WELL


def test_scale_adds_and_drains_the_last() -> None:
    world = World(2)
    world.settle()
    assert len(_spawned(world.do(f.Scale("Fee", 4)))) == 2
    world.settle()
    gone = [world.at(n) for n in (1, 2, 3)]
    assert world.do(f.Scale("Fee", 1)) == [f.Drain(name) for name in gone]
    world.settle()
    assert world.serving() == {0: 1}


def test_a_hung_worker_shows_its_stacks_and_dies() -> None:
    world = World(1)
    (name,) = world.starting
    assert f.Kill(name, stacks=True) in world.do(f.Hung(name, "30 s in handle"))
    assert not [e for e in world.do(f.Hung(name, "still")) if isinstance(e, f.Kill)]


def test_deadlines_are_not_in_the_past_once_they_were_looked_at() -> None:
    fleet = Fleet()
    world = World(2, fleet=fleet)
    world.do(f.Tick(), 1000.0)
    assert world.named(Life.STARTING), "overdue ones are killed, and wait for their end"
    assert fleet.next_deadline() is None
