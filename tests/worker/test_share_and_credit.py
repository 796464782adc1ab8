from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.credit import Credit
from holdfast.model.share import Pace, fitting, share

COUNT = st.integers(1, 2000)


@pytest.mark.parametrize(
    ("waiting", "idle", "batch", "one_writer", "taken"),
    [
        (60, 8, 500, False, 8),
        (60, 8, 500, True, 60),
        (1, 8, 500, False, 1),
        (900, 1, 500, False, 500),
        (900, 3, 100, True, 100),
        (7, 2, 9, False, 4),
    ],
)
def test_a_share(waiting: int, idle: int, batch: int, one_writer: bool, taken: int) -> None:
    assert share(waiting, idle, batch, one_writer) == taken


@pytest.mark.parametrize(("waiting", "worth", "taken"), [(8, 1, 1), (8, 5, 5), (3, 5, 3), (80, 5, 10), (80, 64, 9)])
def test_a_share_is_worth_a_transaction(waiting: int, worth: int, taken: int) -> None:
    assert share(waiting, 8, 9 if worth == 64 else 500, one_writer=False, worth=worth) == taken


def test_what_is_worth_a_transaction_is_learned() -> None:
    pace = Pace()
    assert (pace.worth, pace.wait(1, 7, 0.0)) == (1, 0.0), "before anything is known"
    pace.learn(10, worked=0.01, around=0.008)
    assert pace.worth == 8
    assert pace.wait(7, 1, 0.002) == pytest.approx(0.006)
    assert pace.wait(7, 1, 0.009) == 0.0, "it has waited for as long as a transaction takes"
    assert pace.wait(8, 1, 0.0) == 0.0, "worth one"
    assert pace.wait(7, 0, 0.0) == 0.0, "nobody works"
    pace.learn(1, worked=0.5, around=0.008)
    for _ in range(50):
        pace.learn(10, worked=0.01, around=0.008)
    assert pace.worth == 1, "slow messages are not forgotten soon: nothing is put behind them"
    for _ in range(500):
        pace.learn(10, worked=0.01, around=0.008)
    assert pace.worth == 8
    pace.learn(10, worked=0.0, around=3.0)
    assert pace.wait(1, 1, 0.0) == 0.02, "nobody waits longer for company"


@pytest.mark.parametrize(
    ("fit", "size", "late", "brisk", "then"),
    [
        (500, 500, 400, False, 100),
        (100, 100, 0, False, 100),
        (100, 100, 0, True, 200),
        (100, 20, 0, True, 100),
        (400, 400, 0, True, 500),
        (4, 4, 4, False, 1),
    ],
)
def test_a_transaction_claims_what_it_has_time_for(fit: int, size: int, late: int, brisk: bool, then: int) -> None:
    assert fitting(fit, 500, size=size, late=late, brisk=brisk) == then


@given(COUNT, COUNT, COUNT, st.booleans())
def test_idle_threads_together_leave_nothing_waiting_that_fits(waiting: int, idle: int, batch: int, one_writer: bool) -> None:
    left = waiting
    for thread in range(idle):
        taken = share(left, idle - thread, batch, one_writer) if left else 0
        assert 0 <= taken <= min(batch, left)
        assert taken or not left
        left -= taken
    assert left == max(0, waiting - idle * batch) or (one_writer and left == 0)


@given(
    st.integers(1, 50), st.integers(1, 9), st.lists(st.tuples(st.sampled_from(["receive", "release", "shut", "open"]), st.integers(1, 100)))
)
def test_credit_is_never_exceeded_and_never_withheld(batch: int, threads: int, steps: list[tuple[str, int]]) -> None:
    credit = Credit(batch * (threads + 1), batch)
    for what, number in steps:
        if what == "receive":
            credit.received(min(number, credit.granted))
        elif what == "release":
            credit.released(min(number, credit.held))
        else:
            credit.open = what == "open"
        granted = credit.due()
        assert granted == 0 or credit.open
        assert credit.held + credit.granted <= credit.most
        if credit.open:
            # Even with every other thread stuck on a full batch, one thread gets work.
            assert credit.granted > 0 or credit.held > credit.most - batch


def test_a_quarantine_is_granted_one_at_a_time() -> None:
    credit = Credit(1, 1)
    assert credit.due() == 0
    credit.open = True
    assert [credit.due(), credit.due()] == [1, 0]
    credit.received(1)
    assert credit.due() == 0
    credit.released(1)
    assert credit.due() == 1
