"""What is tried next when messages could not be committed together: nobody is lost, nobody runs for nothing, weather is not for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.replay import MOST_REPLAYS, WEATHER, Group, Trouble, Way, next_groups

A, B, C, D = (["a"], ["b"], ["c"], ["d"])  # compared by identity, as messages are
ALL = [A, B, C, D]


def told(groups: list[Group[list[str]]]) -> list[tuple[str, str, int]]:
    return [("".join(item[0] for item in group.items), group.way.value, group.replays) for group in groups]


@pytest.mark.parametrize(
    ("group", "trouble", "failed", "culprit", "batch", "expected"),
    [
        (Group(ALL), Trouble.OFFENDER, [B], None, False, [("acd", "careful", 0)]),
        (Group([B]), Trouble.OFFENDER, [B], None, False, []),
        (Group(ALL, replays=2), Trouble.OFFENDER, [B, D], None, True, [("ac", "together", 2)]),
        (Group(ALL), Trouble.BREACH, [], C, False, [("ab", "careful", 0), ("c", "alone", 0), ("d", "careful", 0)]),
        (Group(ALL), Trouble.BREACH, [A], B, False, [("b", "alone", 0), ("cd", "careful", 0)]),
        (Group(ALL, Way.CAREFUL), Trouble.BREACH, [C], C, False, [("ab", "careful", 0), ("d", "careful", 0)]),
        (Group(ALL), Trouble.BATCH, [], None, True, [("ab", "together", 0), ("cd", "together", 0)]),
        (Group(ALL), Trouble.REFUSED, [], None, True, [("ab", "together", 0), ("cd", "together", 0)]),
        (Group([A]), Trouble.REFUSED, [], None, True, [("a", "alone", 0)]),
        (Group([A, B]), Trouble.REFUSED, [], None, False, [("a", "alone", 0), ("b", "alone", 0)]),
        (Group([A], Way.ALONE), Trouble.REFUSED, [], None, False, []),
        (Group([A, B]), Trouble.TRANSIENT, [], None, False, [("ab", "together", 1)]),
        (Group([A, B], Way.CAREFUL, 4), Trouble.AWAY, [], None, False, [("ab", "careful", 5)]),
        (Group([A, B], replays=MOST_REPLAYS), Trouble.AWAY, [], None, True, [("a", "alone", 5), ("b", "alone", 5)]),
        (Group([A], Way.ALONE), Trouble.TRANSIENT, [], None, False, []),
        (Group([A, B], Way.BURIAL), Trouble.REFUSED, [], None, True, [("a", "burial", 0), ("b", "burial", 0)]),
        (Group([A], Way.BURIAL), Trouble.REFUSED, [], None, False, []),
        (Group([A], Way.BURIAL), Trouble.AWAY, [], None, False, [("a", "burial", 1)]),
        (Group([A], Way.BURIAL, MOST_REPLAYS), Trouble.AWAY, [], None, False, []),
    ],
)
def test_the_groups_that_follow(
    group: Group[list[str]],
    trouble: Trouble,
    failed: list[list[str]],
    culprit: list[str] | None,
    batch: bool,
    expected: list[tuple[str, str, int]],
) -> None:
    assert told(next_groups(group, trouble, failed, culprit, batch=batch)) == expected


@given(st.data())
def test_nobody_is_lost_and_it_comes_to_an_end(data: st.DataObject) -> None:
    items = [[str(n)] for n in range(data.draw(st.integers(1, 8)))]
    batch = data.draw(st.booleans())
    groups, ended, steps = [Group(items)], [], 0
    while groups:
        steps += 1
        assert steps < 400
        group = groups.pop(0)
        alone = group.way is Way.ALONE
        trouble = data.draw(st.sampled_from([Trouble.REFUSED, *WEATHER] if alone else sorted(Trouble, key=lambda t: t.value)))
        failed, culprit = [], None
        if trouble in (Trouble.OFFENDER, Trouble.BREACH):
            culprit = data.draw(st.sampled_from(group.items))
            failed = [] if trouble is Trouble.BREACH and group.way is Way.TOGETHER else [culprit]
        ended += failed
        following = next_groups(group, trouble, failed, culprit, batch=batch)
        left = [item for each in following for item in each.items]
        kept = [item for item in group.items if not any(item is other for other in failed)]
        assert [id(item) for item in left] == [id(item) for item in kept] or (not following and len(kept) <= 1)
        ended += kept if not following else []
        groups = following + groups
    assert sorted(map(id, ended)) == sorted(map(id, items))
