"""Whatever fails and whenever, with deaths in between: acknowledged with TRUE is exactly one effect, FALSE is none and one letter."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine_world import INNOCENT, MISBEHAVE, Add, ByName, Died, InBatches, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import Job, Message, Retry
from holdfast.model.delivery import DONE
from holdfast.model.faults import POINTS


class Mixed(Add):
    """Some fail before their first statement, some ask for another try once."""

    def one(self, message: Message, db: Any) -> Any:
        if message.text.endswith(",early"):
            raise ValueError("before the first statement")
        return super().one(message, db) if not message.text.endswith(",retry") else self.later(message, db)

    def later(self, message: Message, db: Any) -> str:
        db.execute("INSERT INTO account (name, volume) VALUES (:n, 1)", {"n": message.text.split(",")[0]})
        if message.attempt == 1:
            raise Retry("once more", after=0.1)
        return "at last"


class MixedByName(Mixed, ByName):
    """The same, with identities; a name may come twice."""


class MixedBatch(Mixed, InBatches):
    """The same, by the list."""

    handle = None  # type: ignore[assignment]


HOWS = sorted({*MISBEHAVE, "early", "retry", "reject-first", "number"})
GOOD = {*INNOCENT, "retry"}
WEATHER = st.lists(st.sampled_from(["fine", "fine", "transient", "away", "full"]), max_size=6)
PLAN = st.fixed_dictionaries(
    {
        "begin": WEATHER,
        "claim": WEATHER,
        "record": WEATHER,
        "bury": WEATHER,
        "commit": st.lists(st.sampled_from(["fine", "transient", "away", "away after", "refused"]), max_size=6),
    }
)
DEATHS = st.lists(st.tuples(st.sampled_from([p for p in POINTS if p != "after-receive"]), st.integers(1, 6)), max_size=3)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    hows=st.lists(st.sampled_from(HOWS), min_size=1, max_size=9),
    plan=PLAN,
    deaths=DEATHS,
    drains=st.lists(st.integers(1, 8), max_size=2),
    most=st.integers(1, 9),
    job=st.sampled_from([Mixed, MixedByName, MixedBatch]),
    twice=st.booleans(),
)
def test_acknowledged_means_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    hows: list[str],
    plan: dict[str, list[str]],
    deaths: list[tuple[str, int]],
    drains: list[int],
    most: int,
    job: type[Job],
    twice: bool,
) -> None:
    world = World(tmp_path_factory.mktemp("world"), job, plan=plan, retries=2, answer_within=1e6, batch=most)
    bodies = [f"m{n},1,{how}" for n, how in enumerate(hows)]
    sent = bodies + bodies[:2] if twice and job is MixedByName else bodies
    world.send(*sent)
    _live(world, list(deaths), list(drains), most)
    _check(world, sent)
    world.close()


def _live(world: World, deaths: list[tuple[str, int]], drains: list[int], most: int) -> None:
    """Process to the end. A death comes at its passage of a point; a drain when its number of points has been passed."""
    passed: Counter[str] = Counter()

    def point(name: str) -> None:
        passed[name] += 1
        if (name, passed[name]) in deaths:
            deaths.remove((name, passed[name]))
            raise Died
        if drains and passed.total() >= drains[0]:
            drains.pop(0)
            passed.clear()
            world.draining = True

    world.on_point = point
    for _ in range(200):
        if not (world.source.waiting or world.source.held):
            return
        try:
            world.run(most)
        except Died:
            world.die()
        if world.draining:
            world.draining = False
            world.start_anew()
    raise AssertionError("it does not come to an end")


def _check(world: World, sent: list[str]) -> None:
    assert sorted(world.source.settled) == list(range(1, len(sent) + 1))
    acknowledged = {sent[seq - 1] for seq, item in world.source.settled.items() if item.outcome == DONE}
    assert all(item.answer == b"FALSE" for item in world.source.settled.values() if item.outcome != DONE)
    assert world.volumes() == {body.split(",")[0]: 1 for body in acknowledged}
    buried = Counter(letter.body.decode() for letter in world.letters())
    assert buried == Counter(set(sent) - acknowledged)
    # Retries, poison and weather that lasts can use up the tries of an innocent; no offender is ever acknowledged.
    assert {body for body in acknowledged if body.split(",")[2] not in GOOD} == set()


def test_the_world_can_tell(tmp_path: Path) -> None:
    """The oracle above sees a doubled effect."""
    world = World(tmp_path, ByName, inbox=False)
    world.send("m0,1,", "m0,1,")
    world.run()
    with pytest.raises(AssertionError):
        _check(world, ["m0,1,", "m0,1,"])
    world.close()
