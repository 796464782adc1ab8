"""The breaker: when message after message fails and none succeeds, the fault is not theirs; stop pouring them into the dead letters.

Pure; times are monotonic seconds. Closed, it counts different messages that failed alone, in a row. Open, one message at a time is
let through as a probe, at growing intervals; the first success closes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

IN_A_ROW = 20
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0


@dataclass(slots=True)
class Breaker:
    """One per worker process. `failed` says whether this failure opened it, `succeeded` whether this success closed it."""

    opened: bool = False
    probe_at: float = 0.0
    _row: set[bytes] = field(default_factory=set)
    _pause: float = FIRST_PAUSE

    def failed(self, message: bytes, now: float) -> bool:
        """This message failed, alone."""
        if self.opened:
            self._pause = min(LONGEST_PAUSE, self._pause * 2)
            self.probe_at = now + self._pause
            return False
        self._row.add(message)
        if len(self._row) < IN_A_ROW:
            return False
        self.opened, self._pause = True, FIRST_PAUSE
        self.probe_at = now + self._pause
        return True

    def succeeded(self) -> bool:
        """A message was handled and committed."""
        was_open, self.opened = self.opened, False
        if self._row:
            self._row.clear()
        return was_open
