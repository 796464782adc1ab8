"""Who is taken for hung, and who is not when it was the supervisor that stood still."""

from types import SimpleNamespace
from typing import Any

from holdfast.model import fleet_events as model
from holdfast.model.life import Life, Worker
from holdfast.supervisor.watch import Watch


def _supervisor(beat: float) -> tuple[Any, list[model.Event]]:
    """One with a worker that was active at 100 s and never shows that its loop turns."""
    decided: list[model.Event] = []
    child = SimpleNamespace(id="a/0.1", job="a", board=None, limits=None)
    generation = SimpleNamespace(jobs={"a": SimpleNamespace(options=SimpleNamespace(heartbeat=beat))})
    return SimpleNamespace(
        family=SimpleNamespace(of=lambda *_kinds: [child]),
        fleet=SimpleNamespace(workers={child.id: Worker(child.id, "a", 0, 1, life=Life.ACTIVE, since=100.0)}),
        generations=SimpleNamespace(known={1: generation}, of=lambda _child: generation),
        effects=SimpleNamespace(kills={}),
        decide=decided.append,
    ), decided


def test_a_loop_that_has_not_turned_for_three_heartbeats_is_hung() -> None:
    supervisor, decided = _supervisor(10.0)
    watch = Watch(supervisor)
    watch.begin(100.0)
    for now in (110.0, 120.0, 130.0):
        watch.look(now)
    assert decided == []
    watch.look(140.0)
    assert decided == [model.Hung("a/0.1", "its loop has not turned for 40.0 s")]


def test_after_a_look_that_came_late_everybody_has_three_heartbeats() -> None:
    """The machine may have stood still for all of them, and who was stopped as well gets the processor when it is its turn."""
    supervisor, decided = _supervisor(10.0)
    watch = Watch(supervisor)
    watch.begin(100.0)
    for now in (160.0, 170.0, 180.0, 190.0):
        watch.look(now)
    assert decided == []
    watch.look(200.0)
    assert decided == [model.Hung("a/0.1", "its loop has not turned for 40.0 s")]
