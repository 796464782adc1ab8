"""One generation takes the place of another: all new or all old."""

import pytest
from fleet_world import World, plan

from holdfast.model import fleet_events as f
from holdfast.model.crash_loop import Health
from holdfast.model.life import Life


def _world(slots: int = 2, **options: object) -> World:
    world = World(slots, **options)
    world.settle()
    return world


def test_slot_by_slot_and_no_incumbent_drains_before_its_heir_is_active() -> None:
    world = _world(3)
    old = [world.at(n) for n in range(3)]
    world.roll(3)
    for number in range(3):
        assert world.starting == [world.heir(number)], "one heir at a time"
        heir = world.heir(number)
        effects = world.do(f.Ready(heir))
        assert effects[:2] == [f.Activate(heir), f.Drain(old[number])]
    assert world.verdicts == [f.RolledOut(2)]
    world.settle()
    assert world.serving() == {0: 2, 1: 2, 2: 2}
    assert world.fleet.generations() == {2}


def test_without_overlap_two_generations_never_work_in_one_slot() -> None:
    world = _world(1, overlap=False)
    old = world.at(0)
    world.roll(1, overlap=False)
    heir = world.heir(0)
    assert f.Activate(heir) not in world.do(f.Ready(heir))
    assert f.Activate(heir) in world.do(f.Exited(old, "exit status 0"))
    assert world.verdicts == [f.RolledOut(2)]


def test_probation_counts_from_the_last_slot() -> None:
    world = _world(1)
    world.roll(1, probation=3.0)
    world.do(f.Ready(world.heir(0)), 10.0)
    assert world.verdicts == []
    assert world.fleet.next_deadline() == 13.0 or world.named(Life.DRAINING)
    world.do(f.Tick(), 12.9)
    assert world.verdicts == []
    world.do(f.Tick(), 13.0)
    assert world.verdicts == [f.RolledOut(2)]


@pytest.mark.parametrize("how", ["failed", "overdue", "hung"])
def test_an_heir_that_is_not_ready_refuses_the_rollout_on_every_slot(how: str) -> None:
    world = _world(2)
    old = [world.at(n) for n in range(2)]
    world.roll(2)
    world.do(f.Ready(world.heir(0)))
    heir = world.heir(1)
    if how == "overdue":
        world.do(f.Tick(), 40.0)
    if how == "hung":
        world.do(f.Hung(heir, "setup"))
    world.do(f.Exited(heir, how, killed=how != "failed"))
    assert world.verdicts == [], "the first slot still has the new generation"
    world.settle()
    assert [type(v) for v in world.verdicts] == [f.RolledBack]
    assert world.serving() == {0: 1, 1: 1}
    assert world.at(1) == old[1]
    assert world.fleet.generations() == {1}


def test_a_rollout_that_fails_at_its_first_heir_touches_nobody() -> None:
    world = _world(2)
    old = [world.at(n) for n in range(2)]
    world.roll(2)
    effects = world.do(f.Exited(world.heir(0), "exit status 1"))
    assert [type(v) for v in world.verdicts] == [f.RolledBack]
    assert not [e for e in effects if isinstance(e, f.Spawn | f.Drain | f.Kill)]
    assert [world.at(n) for n in range(2)] == old


def test_the_first_death_of_a_new_worker_halts_until_its_replacement_has_lasted() -> None:
    world = _world(3)
    world.roll(3, probation=3.0)
    first = world.heir(0)
    world.do(f.Ready(first))
    world.do(f.Exited(first, "killed by SIGSEGV", worked=True), 1.0)
    world.settle()
    assert world.serving() == {0: 2, 1: 2, 2: 1}, "the heir of the second slot was on its way; the third is not given"
    world.do(f.Tick(), 3.9)
    assert world.starting == []
    world.do(f.Tick(), 4.0)
    world.settle()
    assert world.serving() == {0: 2, 1: 2, 2: 2}


def test_the_second_death_of_a_new_worker_rolls_every_slot_back() -> None:
    world = _world(2)
    world.roll(2, probation=3.0)
    world.settle()
    world.do(f.Exited(world.at(0), "killed by SIGSEGV", worked=True), 1.0)
    assert world.verdicts == []
    world.settle()
    world.do(f.Exited(world.at(1), "killed by SIGSEGV", worked=True), 2.0)
    world.settle()
    assert [type(v) for v in world.verdicts] == [f.RolledBack]
    assert world.serving() == {0: 1, 1: 1}


def test_after_a_death_probation_counts_anew() -> None:
    world = _world(2)
    world.roll(2, probation=3.0)
    world.settle()
    world.do(f.Exited(world.at(0), "exit status 1", worked=True), 1.0)
    world.settle()
    world.do(f.Tick(), 3.9)
    assert world.verdicts == []
    world.do(f.Tick(), 4.0)
    assert world.verdicts == [f.RolledOut(2)]


def test_somebody_elses_sigkill_is_no_verdict_about_the_code() -> None:
    world = _world(2)
    world.roll(2, probation=3.0)
    for _ in range(4):
        world.do(f.Exited(world.heir(0), "killed by SIGKILL", killed=True))
        world.do(f.Tick(), world.now + 10)
    world.settle()
    for _ in range(10):
        world.do(f.Exited(world.at(0), "killed by SIGKILL", killed=True))
        world.settle()
    world.do(f.Tick(), world.now + 3.0)
    assert world.verdicts == [f.RolledOut(2)]


def test_heirs_that_never_come_to_life_end_the_rollout() -> None:
    world = _world(1)
    world.roll(1)
    for _ in range(10):
        if world.verdicts:
            break
        for name in world.starting:
            world.do(f.SpawnFailed(name, "no memory"))
        world.do(f.Tick(), world.now + 60)
    assert [type(v) for v in world.verdicts] == [f.RolledBack]
    assert world.serving() == {0: 1}


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 0), (0, 2)])
@pytest.mark.parametrize("good", [True, False], ids=["accepted", "rolled back"])
def test_another_number_of_workers_rolls_the_same_way(before: int, after: int, good: bool) -> None:
    world = _world(before)
    world.roll(after, probation=3.0)
    world.settle()
    if not good:
        world.do(f.RollBack("for the test"))
    world.settle()
    world.do(f.Tick(), world.now + 3.0)
    world.settle()
    assert [type(v) for v in world.verdicts] == [f.RolledOut if good else f.RolledBack]
    assert world.serving() == (dict.fromkeys(range(after), 2) if good else dict.fromkeys(range(before), 1))


@pytest.mark.parametrize("good", [True, False], ids=["accepted", "rolled back"])
def test_jobs_come_and_go_with_the_verdict(good: bool) -> None:
    world = _world(1)
    world.do(f.Roll(2, {"New": plan(1)}, 3.0))
    for name in world.starting:
        world.do(f.Ready(name))
    assert world.serving() == {0: 1}, "a removed job works until the verdict"
    assert world.serving("New") == {0: 2}
    if not good:
        world.do(f.RollBack("for the test"))
    world.do(f.Tick(), world.now + 3.0)
    assert [e.job for e in world.effects if isinstance(e, f.Removed)] == (["Fee"] if good else ["New"])
    world.settle()
    assert set(world.fleet.jobs) == ({"New"} if good else {"Fee"})
    assert [type(v) for v in world.verdicts] == [f.RolledOut if good else f.RolledBack]


@pytest.mark.parametrize(("wanted", "ends"), [(2, 5), (3, 3)], ids=["unchanged", "changed"])
def test_scale_stays_until_the_configuration_says_something_else(wanted: int, ends: int) -> None:
    world = _world(2)
    world.do(f.Scale("Fee", 5))
    world.settle()
    world.roll(wanted)
    world.settle()
    assert world.serving() == dict.fromkeys(range(ends), 2)


def test_quarantine_follows_the_generation() -> None:
    world = _world(1)
    world.do(f.Suspects("Fee", 1))
    world.settle()
    world.roll(1)
    world.settle()
    assert world.serving() == {-1: 2, 0: 2}


def test_a_stop_ends_a_rollout() -> None:
    world = _world(2)
    world.roll(2)
    world.do(f.Stop(5.0))
    for name in list(world.fleet.workers):
        world.do(f.Exited(name, "exit status 0"))
    assert world.fleet.stopped()


def test_a_job_that_has_failed_is_started_by_the_code_that_mends_it() -> None:
    world = World(1)
    while world.fleet.jobs["Fee"].crashes.health is Health.WELL:
        for name in world.starting:
            world.do(f.Exited(name, "exit status 1"))
        world.do(f.Tick(), world.now + 1)
    assert world.starting == []
    world.roll(1)
    world.settle()
    assert world.serving() == {0: 2}
    assert world.verdicts == [f.RolledOut(2)]
