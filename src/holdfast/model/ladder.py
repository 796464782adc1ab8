"""The rungs on which messages wait for another try: queues with a fixed time to live, since one queue with mixed times stalls."""

from __future__ import annotations

from typing import Any

#: Seconds. A delay takes the rung that is nearest by ratio, so that it is at most about 1.4 times off.
RUNGS = (1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800, 3600)
ATTEMPT = "x-holdfast-attempt"
REASON = "x-holdfast-reason"
LONGEST_REASON = 500


def rung(delay: float) -> int:
    """The rung, in seconds, for a delay in seconds."""
    return min(RUNGS, key=lambda one: max(one, delay) / max(min(one, delay), 1e-3))


def rung_queue(queue: str, seconds: int) -> str:
    """The name of a rung's queue."""
    return f"{queue}.retry.{seconds}"


def rung_arguments(queue: str, seconds: int) -> dict[str, Any]:
    """What makes it a rung: nothing is lost on the way back, and a full one says no instead of dropping (trap 28)."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": seconds * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def attempt(headers: dict[str, Any] | None) -> int:
    """Which try a message is at, by what we wrote when it was put on a rung; nonsense of others counts as the first."""
    value = (headers or {}).get(ATTEMPT)
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000 else 1
