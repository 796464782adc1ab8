"""What becomes of a failed message, and when the breaker thinks that it is not the message's fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.breaker import IN_A_ROW, LONGEST_PAUSE, Breaker
from holdfast.model.giving_up import Failure, delay, next_try
from holdfast.model.options import JobOptions


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_a_delay_stays_between_half_of_the_first_and_the_longest(attempt: int, dice: float) -> None:
    assert 0.5 <= delay(attempt, (1.0, 300.0), dice) <= 300.0


@pytest.mark.parametrize(
    ("failure", "attempt", "retries", "answers", "age", "expected"),
    [
        (Failure("x"), 1, 5, False, 0.0, 1.0),
        (Failure("x"), 3, 5, False, 0.0, 4.0),
        (Failure("x"), 5, 5, False, 1e6, 16.0),
        (Failure("x"), 6, 5, False, 0.0, None),
        (Failure("x"), 1, 0, True, 0.0, None),
        (Failure("x"), 1, 5, True, 9.5, None),
        (Failure("x"), 1, 5, True, 8.0, 1.0),
        (Failure("x", final=True), 1, 5, False, 0.0, None),
        (Failure("x", after=0.25), 1, 5, False, 0.0, 0.25),
    ],
)
def test_another_try_or_the_dead_letters(
    failure: Failure, attempt: int, retries: int, answers: bool, age: float, expected: float | None
) -> None:
    assert next_try(failure, attempt, JobOptions(retries=retries), answers, age, 0.0) == expected


def test_the_breaker_opens_after_different_messages_in_a_row() -> None:
    breaker = Breaker()
    assert not any(breaker.failed(b"the same", 0.0) for _ in range(100))
    opened = [breaker.failed(bytes([n]), 5.0) for n in range(IN_A_ROW - 1)]
    assert opened == [False] * (IN_A_ROW - 2) + [True]
    assert breaker.probe_at == 6.0


def test_a_success_in_between_keeps_it_closed() -> None:
    breaker = Breaker()
    for n in range(10 * IN_A_ROW):
        breaker.failed(n.to_bytes(4, "big"), 0.0)
        breaker.succeeded()
    assert not breaker.opened


def test_probes_get_rarer_and_the_first_success_closes() -> None:
    breaker, now = Breaker(opened=True), 0.0
    pauses = []
    for n in range(10):
        breaker.failed(bytes([n]), now)
        pauses.append(breaker.probe_at - now)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert breaker.succeeded()
    assert not breaker.succeeded()
