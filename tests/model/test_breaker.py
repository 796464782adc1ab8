"""The breaker opens after a row of failures, lets one message through at a time, and the first success closes it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from holdfast.model.breaker import FIRST_PAUSE, IN_A_ROW, LONGEST_PAUSE, TRANSITIONS, Breaker, Event, State


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    assert [breaker.failed(n, "no table", now) for n in range(IN_A_ROW)] == [False] * (IN_A_ROW - 1) + [True]
    return breaker


def test_the_table_is_total() -> None:
    assert set(TRANSITIONS) == {(state, event) for state in State for event in Event}


def test_it_opens_after_different_messages_in_a_row() -> None:
    breaker = Breaker()
    assert not any(breaker.failed(1, "the same", 0.0) for _ in range(100))
    assert not breaker.opened
    breaker = opened(5.0)
    assert breaker.reason == "20 messages failed in a row: no table"
    assert breaker.ask(5.0) == FIRST_PAUSE


def test_a_success_in_between_keeps_it_closed() -> None:
    breaker = Breaker()
    for n in range(10 * IN_A_ROW):
        breaker.failed(n, "x", 0.0)
        assert not breaker.succeeded()
    assert not breaker.opened


def test_probes_get_rarer_and_the_first_success_closes() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for n in range(10):
        pauses.append(breaker.ask(now))
        now += pauses[-1]
        assert breaker.ask(now) == 0.0
        assert not breaker.failed(n, "x", now)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, *[LONGEST_PAUSE] * 5]
    assert breaker.succeeded()
    assert not breaker.succeeded()
    assert breaker.ask(now) == 0.0


def test_one_probe_at_a_time() -> None:
    breaker = opened()
    assert breaker.ask(1.0) == 0.0
    assert breaker.ask(1.0) > 0.0
    breaker.abandoned(3.0)
    assert breaker.ask(3.0) == FIRST_PAUSE


@pytest.mark.parametrize("event", [Event.FAILED, Event.ABANDONED])
def test_what_happens_late_changes_nothing(event: Event) -> None:
    breaker = opened()
    if event is Event.FAILED:
        breaker.failed(99, "late", 0.9)
    else:
        breaker.abandoned(0.9)
    assert breaker.ask(1.0) == 0.0


class Threads(RuleBasedStateMachine):
    """Several threads tell and ask, in any order, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.row: set[int] = set()
        self.probing = False

    @rule(seconds=st.floats(0, 40))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule(messages=st.lists(st.integers(0, 30), max_size=40))
    def fail(self, messages: list[int]) -> None:
        for message in messages:
            self.fails(message)

    def fails(self, message: int) -> None:
        was_open = self.breaker.opened
        self.row.add(message)
        opening = not was_open and len(self.row) >= IN_A_ROW
        assert self.breaker.failed(message, "x", self.now) is opening
        assert self.breaker.opened is (was_open or opening)
        if self.breaker.opened:
            self.row.clear()
        self.probing = False

    @rule()
    def succeeds(self) -> None:
        was_open = self.breaker.opened
        assert self.breaker.succeeded() is was_open
        assert not self.breaker.opened
        self.row.clear()
        self.probing = False

    @rule()
    def asks(self) -> None:
        closed, wait = not self.breaker.opened, self.breaker.ask(self.now)
        assert 0.0 <= wait <= LONGEST_PAUSE
        assert not (closed and wait)
        assert not (self.probing and not wait)
        self.probing = self.probing or (not closed and not wait)

    @rule()
    def gives_up(self) -> None:
        self.breaker.abandoned(self.now)
        self.probing = False

    @invariant()
    def one_thread_probes_at_most(self) -> None:
        assert (self.breaker.state is State.PROBING) is self.probing


Threads.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestThreads = Threads.TestCase
