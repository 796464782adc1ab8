from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.credit import Credit
from holdfast.model.share import fitting, share

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
