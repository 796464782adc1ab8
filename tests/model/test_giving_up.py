"""What becomes of a failed message: another try, and when, or the dead letters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
