"""When the guard starts a supervisor again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.recovery import (
    FIRST_PAUSE,
    FREE_ENDS,
    LONGEST_PAUSE,
    STABLE_AFTER,
    Look,
    Row,
    Silence,
    has_other_guard,
    starts_again,
)


@given(st.lists(st.floats(0, 2 * STABLE_AFTER), max_size=100), st.floats(0, 1))
def test_pauses_are_none_at_first_grow_and_have_an_end(uptimes: list[float], dice: float) -> None:
    row, quick = Row(), 0
    for up in uptimes:
        row = row.after(up)
        quick = 1 if up >= STABLE_AFTER else quick + 1
        wanted = 0.0 if quick <= FREE_ENDS else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (quick - FREE_ENDS - 1))
        assert wanted / 2 <= row.pause(dice) <= wanted
        assert row.pause(0.0) == wanted


def test_the_dice_spread_the_starts_of_many_daemons() -> None:
    row = Row(FREE_ENDS + 3)
    assert row.pause(0.0) == 4.0
    assert row.pause(1.0) == 2.0


@pytest.mark.parametrize(
    ("status", "killed", "asked", "was_ready", "again"),
    [
        (0, True, False, True, True),  # kill -9
        (70, False, False, True, True),  # our own bug
        (1, False, False, True, True),  # a start that failed after one that did not
        (0, False, False, True, False),  # stop, by the control socket
        (0, True, True, True, False),  # TERM, and it did not end in time
        (1, False, True, True, False),
        (1, False, False, False, False),  # the first start: its verdict is the answer
        (0, True, False, False, False),
    ],
)
def test_only_an_end_that_nobody_asked_for(status: int, killed: bool, asked: bool, was_ready: bool, again: bool) -> None:
    assert starts_again(status=status, killed=killed, asked=asked, was_ready=was_ready) is again


@pytest.mark.parametrize(
    ("environ", "parent", "other"),
    [
        ({}, "systemd", False),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, "bash", True),
        ({"INVOCATION_ID": "1"}, "systemd", True),
        ({"INVOCATION_ID": "1"}, "bash", False),  # a shell that some service has started
    ],
)
def test_a_service_manager_is_a_guard(environ: dict[str, str], parent: str, other: bool) -> None:
    assert has_other_guard(environ, parent) is other


def _looks(silence: Silence, *times: float) -> list[Look]:
    found = []
    for now in times:
        silence, what = silence.look(now)
        found.append(what)
    return found


def test_a_supervisor_is_hung_when_it_owes_an_answer_for_all_the_patience_there_is() -> None:
    silence = Silence(60.0, 100.0)
    assert silence.next_look == 120.0
    assert _looks(silence, 120, 140, 160, 179.9) == [Look.ASK, Look.WAIT, Look.WAIT, Look.WAIT]
    assert _looks(silence, 120, 140, 160, 180) == [Look.ASK, Look.WAIT, Look.WAIT, Look.HUNG]


def test_an_answer_begins_anew() -> None:
    silence, _ = Silence(60.0, 100.0).look(120.0)
    assert _looks(silence.answered(), 140, 160, 180) == [Look.ASK, Look.WAIT, Look.WAIT]


def test_a_guard_that_is_late_itself_judges_nobody() -> None:
    silence = Silence(60.0, 100.0)
    assert _looks(silence, 120, 140, 200, 220, 240) == [Look.ASK, Look.WAIT, Look.ASK, Look.WAIT, Look.WAIT]
    assert _looks(silence, 120, 140, 200, 220, 240, 260)[-1] is Look.HUNG


@given(st.floats(0.1, 3600.0), st.lists(st.floats(0.0, 7200.0), max_size=50))
def test_nobody_is_hung_who_was_not_waited_for_without_a_gap(patience: float, gaps: list[float]) -> None:
    silence, now, good = Silence(patience, 0.0), 0.0, 0.0
    for gap in gaps:
        now += gap
        on_time = gap <= 2 * silence.interval
        silence, what = silence.look(now)
        good = good + gap if on_time else 0.0
        assert what is not Look.HUNG or (on_time and good >= patience * 0.999)
