"""The breaker: when message after message fails and none succeeds, the fault is not theirs; stop pouring them into the dead letters.

Pure; times are monotonic seconds. CLOSED, it counts different messages that failed alone, in a row. OPEN, it gives leave for one message
at a time as a probe, at growing intervals. PROBING, one thread has that leave. The first success, whoever has it, closes it.
"""

from __future__ import annotations

from enum import Enum

IN_A_ROW = 20
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: How often a thread asks again while another one has the leave to probe, in seconds.
ASK_AGAIN = 0.25


class State(Enum):
    """What the breaker lets through."""

    CLOSED = "closed"  # everything
    OPEN = "open"  # nothing, until a probe is due
    PROBING = "probing"  # one message is being tried


class Event(Enum):
    """What the breaker is told."""

    FAILED = "failed"  # a message failed, alone
    LIMIT = "limit"  # it was the last of the row
    SUCCEEDED = "succeeded"  # a message was handled and committed
    DUE = "due"  # a probe is asked for and its time has come
    ABANDONED = "abandoned"  # the probe ended without a verdict on its message


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.FAILED): State.CLOSED,  # one more in the row
    (State.CLOSED, Event.LIMIT): State.OPEN,  # pause; the first probe comes after FIRST_PAUSE
    (State.CLOSED, Event.SUCCEEDED): State.CLOSED,  # the row begins anew
    (State.CLOSED, Event.DUE): State.CLOSED,  # nobody needs leave
    (State.CLOSED, Event.ABANDONED): State.CLOSED,  # another thread's success closed it meanwhile
    (State.OPEN, Event.FAILED): State.OPEN,  # begun before it opened, or a message whose client can wait no longer
    (State.OPEN, Event.LIMIT): State.OPEN,  # cannot be: there is no row while it is open
    (State.OPEN, Event.SUCCEEDED): State.CLOSED,  # a batch begun before it opened
    (State.OPEN, Event.DUE): State.PROBING,
    (State.OPEN, Event.ABANDONED): State.OPEN,  # a late failure took the probe for its own
    (State.PROBING, Event.FAILED): State.OPEN,  # the next probe comes after twice the time
    (State.PROBING, Event.LIMIT): State.OPEN,  # cannot be, as above
    (State.PROBING, Event.SUCCEEDED): State.CLOSED,
    (State.PROBING, Event.DUE): State.PROBING,  # one at a time
    (State.PROBING, Event.ABANDONED): State.OPEN,  # the next probe comes after the same time
}


class Breaker:
    """One per worker process; its threads share it behind a lock."""

    def __init__(self) -> None:
        self.state = State.CLOSED
        self.reason = ""  # of the failure that opened it
        self._row: set[int] = set()
        self._pause = FIRST_PAUSE
        self._probe_at = 0.0

    @property
    def opened(self) -> bool:
        """Whether messages are held back."""
        return self.state is not State.CLOSED

    def failed(self, message: int, reason: str, now: float) -> bool:
        """This message failed, alone; True when that opened the breaker."""
        before = self.state
        if before is State.CLOSED:
            self._row.add(message)
        limit = before is State.CLOSED and len(self._row) >= IN_A_ROW
        self.state = TRANSITIONS[before, Event.LIMIT if limit else Event.FAILED]
        if limit:
            self._row.clear()
            self.reason = f"{IN_A_ROW} messages failed in a row: {reason}"
            self._put_off(FIRST_PAUSE, now)
        elif before is State.PROBING:
            self._put_off(min(LONGEST_PAUSE, 2 * self._pause), now)
        return limit

    def succeeded(self) -> bool:
        """A message was handled and committed; True when that closed the breaker."""
        before, self.state = self.state, TRANSITIONS[self.state, Event.SUCCEEDED]
        self._row.clear()
        return before is not State.CLOSED

    def ask(self, now: float) -> float:
        """0 when the caller may try one message now; otherwise seconds after which to ask again.

        Who gets leave from an open breaker tells `failed`, `succeeded` or `abandoned` afterwards.
        """
        if self.state is State.PROBING:
            return ASK_AGAIN
        if self.state is State.OPEN and now < self._probe_at:
            return self._probe_at - now
        self.state = TRANSITIONS[self.state, Event.DUE]
        return 0.0

    def abandoned(self, now: float) -> None:
        """The probe told nothing about its message (store away, done before, a drain)."""
        if self.state is State.PROBING:
            self._put_off(self._pause, now)
        self.state = TRANSITIONS[self.state, Event.ABANDONED]

    def _put_off(self, pause: float, now: float) -> None:
        self._pause = pause
        self._probe_at = now + pause
