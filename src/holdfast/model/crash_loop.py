"""Crash loops: how soon a dead worker is replaced, and when its job is given up for a while. Pure; times are monotonic seconds.

A slot cools down by itself: a few deaths in a row are replaced at once, then with growing pauses. A job has a budget of restarts a
minute over all its slots. When that is spent the job has FAILED: nothing of it is started until `retry_at`, and then one worker
alone (half-open). If that one proves stable the job is well again; if not, the next pause is longer.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

STABLE_AFTER = 30.0  # a worker that was active so long was no crash at start
FREE_DEATHS = 3  # so many deaths in a row are replaced at once
FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0
LONGEST_WAIT = 5.0  # between two looks whether what was not to be had is there again
BUDGET, WINDOW = 8, 60.0  # restarts in so many seconds
FIRST_REST, LONGEST_REST = 30.0, 600.0


def delay(deaths: int, jitter: float) -> float:
    """How long a slot waits after so many deaths in a row."""
    over = deaths - FREE_DEATHS
    return 0.0 if over <= 0 else min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(over - 1, 20)) * jitter


def wait(misses: int, jitter: float) -> float:
    """How long a slot waits after so many workers in a row that could not have their store or broker."""
    return min(LONGEST_WAIT, FIRST_DELAY * 2.0 ** min(misses, 20)) * jitter


class Health(enum.Enum):
    """Of a job."""

    WELL = "well"
    FAILED = "failed"  # nothing is started
    TRYING = "trying"  # one worker shows whether it goes again


@dataclass(slots=True)
class CrashLoop:
    """One job's breaker."""

    health: Health = Health.WELL
    retry_at: float = 0.0
    trial: str = ""  # the worker that shows whether it goes again
    _crashes: deque[float] = field(default_factory=deque)
    _rests: int = 0

    def crashed(self, worker: str, now: float, jitter: float) -> bool:
        """Count a crash; True when the job has failed by it."""
        while self._crashes and self._crashes[0] <= now - WINDOW:
            self._crashes.popleft()
        self._crashes.append(now)
        over = len(self._crashes) >= BUDGET if self.health is Health.WELL else worker == self.trial
        if not over:
            return False
        self.health, self.trial = Health.FAILED, ""
        self.retry_at = now + min(LONGEST_REST, FIRST_REST * 2.0 ** min(self._rests, 20)) * jitter
        self._rests += 1
        return True

    def may_start(self, now: float) -> bool:
        """Whether a worker may be started now."""
        return self.health is Health.WELL or (self.health is Health.FAILED and now >= self.retry_at)

    def started(self, worker: str) -> None:
        """This worker was started; after a failure it is the one that is watched."""
        if self.health is Health.FAILED:
            self.health, self.trial = Health.TRYING, worker

    def gone(self, worker: str, now: float) -> None:
        """The worker ended and is not to blame; if it was the one that is watched, another may take its place at once."""
        if worker == self.trial:
            self.health, self.trial, self.retry_at = Health.FAILED, "", now

    def proved(self, worker: str) -> bool:
        """The worker was stable; True when the job is well again by it."""
        if worker != self.trial or self.health is not Health.TRYING:
            return False
        self.health, self.trial, self._rests = Health.WELL, "", 0
        self._crashes.clear()
        return True
