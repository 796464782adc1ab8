"""Workers are replaced at their limits, and not all at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.options import JobOptions
from holdfast.model.recycling import draw

CHANCE = st.floats(0.0, 1.0)
MIB = 1 << 20


@given(st.integers(2, 64), st.data())
def test_sisters_leave_over_at_least_half_of_the_window_and_none_too_late(slots: int, data: st.DataObject) -> None:
    options = JobOptions(max_messages=1000, max_age=600.0, max_rss=300 * MIB)
    drawn = [draw(options, slot, slots, data.draw(CHANCE)) for slot in range(slots)]
    messages, ages = [one.messages for one in drawn], [one.age_s for one in drawn]
    assert max(messages) - min(messages) >= 500
    assert max(ages) - min(ages) >= 300
    assert min(messages) >= 300
    assert max(messages) <= 1000
    assert max(ages) <= 600 + 1e-6
    fresh = 100 * MIB
    due = [next(rss for rss in range(fresh, 301 * MIB, MIB) if one.reason(0, rss, fresh)) for one in drawn]
    assert max(due) - min(due) >= 100 * MIB
    assert fresh + 60 * MIB <= min(due)


@given(CHANCE, st.integers(0, 9))
def test_without_limits_nothing_is_due(chance: float, slot: int) -> None:
    limits = draw(JobOptions(), slot, 10, chance)
    assert (limits.messages, limits.reason(1e9, 1 << 50, 1), limits.hopeless(1 << 50)) == (0, "", False)


@pytest.mark.parametrize(
    ("age", "rss", "fresh", "reason"),
    [
        (94.0, 0, 0, ""),
        (97.1, 0, 0, "max_age: 97 s old"),
        (0.0, 194 * MIB, 100 * MIB, ""),
        (0.0, 198 * MIB, 100 * MIB, "max_rss: 198 MiB"),
        (0.0, 500 * MIB, 200 * MIB, ""),
        (0.0, 500 * MIB, 300 * MIB, ""),
    ],
)
def test_what_is_due(age: float, rss: int, fresh: int, reason: str) -> None:
    limits = draw(JobOptions(max_age=100.0, max_rss=200 * MIB), 0, 1, 0.5)
    assert limits.reason(age, rss, fresh) == reason
    assert limits.hopeless(fresh) == (fresh >= 200 * MIB)


def test_a_slot_that_came_later_and_a_limit_of_one() -> None:
    assert draw(JobOptions(max_messages=1), 7, 2, 0.0).messages == 1
    assert draw(JobOptions(max_messages=1), 0, 2, 0.0).messages == 1
