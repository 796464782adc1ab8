"""Acknowledgements of a channel, suspects of a queue, rungs of the ladder."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.model import ladder
from holdfast.model.acks import Acks
from holdfast.model.blame import Blame, Suspect


@given(st.data())
def test_every_tag_is_acknowledged_once_and_as_early_as_it_can_be(data: st.DataObject) -> None:
    acks, last = Acks(), 0
    open_tags: set[int] = set()
    acknowledged: list[int] = []
    unacknowledged: set[int] = set()  # as the broker sees it
    for step in data.draw(st.lists(st.sampled_from(["come", "settle", "leave"]), max_size=60)):
        if step == "come":
            last += 1
            acks.delivered(last)
            open_tags.add(last)
            unacknowledged.add(last)
        elif step == "settle":
            wanted = data.draw(st.sets(st.integers(1, max(last, 1))))
            for tag, multiple in acks.settled(wanted):
                covered = {one for one in unacknowledged if one <= tag} if multiple else {tag}
                assert tag in unacknowledged, "an unknown tag closes the channel"
                assert covered <= wanted & open_tags, "what is not settled is not acknowledged"
                acknowledged += covered
                unacknowledged -= covered
            open_tags -= wanted
            assert not unacknowledged & wanted, "at once, whatever is still open before it"
        elif open_tags:
            tag = data.draw(st.sampled_from(sorted(open_tags)))
            assert acks.left(tag)
            assert not acks.left(tag)
            open_tags.discard(tag)
            unacknowledged.discard(tag)
        assert acks.open == len(open_tags)
    assert len(acknowledged) == len(set(acknowledged))


def test_what_is_settled_in_order_takes_one_acknowledgement() -> None:
    acks = Acks()
    for tag in range(1, 101):
        acks.delivered(tag)
    assert acks.settled(range(1, 51)) == [(50, True)]
    assert acks.settled(range(52, 55)) == [(52, False), (53, False), (54, False)]
    assert acks.settled([51]) == [(51, True)]
    assert acks.settled([51, 999]) == []


def test_only_who_was_alone_is_blamed() -> None:
    blame = Blame()
    assert blame.died([7, 8], "signal 11") == [Suspect(7, 0, "signal 11"), Suspect(8, 0, "signal 11")]
    assert blame.died([7], "signal 6") == [Suspect(7, 1, "signal 6")]
    assert blame.died([8, 7], "signal 9") == [Suspect(8, 0, "signal 9"), Suspect(7, 1, "signal 9")]
    (worse,) = blame.died([7], "signal 6")
    assert worse.doom(3) == ""
    assert worse.doom(2) == "killed its worker 2 times while it was alone: signal 6"
    assert [suspect.mark for suspect in blame.all()] == [8, 7]


def test_suspects_are_bounded() -> None:
    blame = Blame(most=3)
    for mark in range(10):
        blame.died([mark], "")
    assert [suspect.mark for suspect in blame.all()] == [7, 8, 9]


@given(st.floats(0.001, 1e6))
def test_a_delay_takes_a_rung_that_is_near(delay: float) -> None:
    rung = ladder.rung(delay)
    assert rung in ladder.RUNGS
    if ladder.RUNGS[0] <= delay <= ladder.RUNGS[-1]:
        assert max(rung, delay) / min(rung, delay) <= 1.75


@given(st.one_of(st.none(), st.dictionaries(st.just(ladder.ATTEMPT), st.one_of(st.integers(), st.text(), st.none(), st.booleans()))))
def test_the_attempt_is_what_we_wrote_or_the_first(headers: dict[str, object] | None) -> None:
    written = (headers or {}).get(ladder.ATTEMPT)
    found = ladder.attempt(headers)
    assert found == (written if type(written) is int and 1 <= written <= 1_000_000 else 1)
