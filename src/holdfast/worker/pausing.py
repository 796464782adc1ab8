"""Pausing: a process that cannot work (store away, breaker open) takes nothing, and says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.worker.intake import Intake


@dataclass(frozen=True, slots=True)
class Pause:
    """Why, and since when in seconds since the epoch."""

    reason: str
    since: float


class Pausing:
    """One state for the whole process, set by engines, told by the I/O loop. The first `resume` ends it for all.

    An engine whose own trouble lasts pauses again: a process that pauses once too often loses a moment, one that waits for a
    `resume` that does not come is lost.
    """

    def __init__(self, intake: Intake, wake: Callable[[], None]) -> None:
        self._intake = intake
        self._wake = wake
        self._lock = threading.Lock()
        self.current: Pause | None = None

    def pause(self, reason: str) -> None:
        with self._lock:
            if self.current is not None:
                return
            self.current = Pause(reason, time.time())
            self._intake.pause()
        self._wake()

    def resume(self) -> None:
        with self._lock:
            if self.current is None:
                return
            self.current = None
            self._intake.resume()
        self._wake()
