"""A clock that only moves when it is told to."""

from __future__ import annotations


class FakeClock:
    """Stands in for `time.monotonic`, `time.monotonic_ns` and `time.time`: all move together, by `advance` alone."""

    def __init__(self, *, start: float = 1000.0, epoch: float = 1_700_000_000.0) -> None:
        self._now_ns = round(start * 1e9)
        self._epoch_ns = round((epoch - start) * 1e9)

    def advance(self, seconds: float) -> None:
        """Move on; never back."""
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back")
        self._now_ns += round(seconds * 1e9)

    def monotonic_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._now_ns / 1e9

    def time(self) -> float:
        """Seconds since the epoch."""
        return (self._now_ns + self._epoch_ns) / 1e9
