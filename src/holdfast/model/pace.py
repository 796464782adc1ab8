"""How fast connections are opened: some at once, then at a rate, so that a server which comes back is not run over. Pure."""

from __future__ import annotations


class Pace:
    """`burst` at once, then `rate` a second. Times are monotonic seconds."""

    def __init__(self, burst: int, rate: float) -> None:
        self._gap = 1.0 / rate
        self._slack = burst * self._gap
        self._free_at = float("-inf")

    def wait(self, now: float) -> float:
        """Take a turn; seconds until it comes."""
        self._free_at = max(self._free_at, now - self._slack) + self._gap
        return max(0.0, self._free_at - now)


def recycle_at(now: float, lifetime: float, dice: float) -> float:
    """When a connection opened now is to be replaced: within the last quarter of its lifetime, so that not all go at once."""
    return now + lifetime * (0.75 + dice / 4)
