"""What becomes of a message that failed: another try, and when, or the dead letters."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.model.options import JobOptions

ATTEMPTS_THAT_MATTER = 30  # beyond it the delay has long been at its longest


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message did not succeed."""

    reason: str
    trace: str = ""
    final: bool = False  # Reject: no other try
    after: float | None = None  # Retry(after=…)
    event: str = "message.failed"  # how it is logged


def delay(attempt: int, backoff: tuple[float, float], dice: float) -> float:
    """Seconds before the next try: doubling from the first to the longest, of which `dice` (0 to 1) takes away up to a half."""
    first, longest = backoff
    full = min(longest, first * 2.0 ** min(attempt - 1, ATTEMPTS_THAT_MATTER))
    return full * (1.0 - dice / 2)


def next_try(failure: Failure, attempt: int, options: JobOptions, answers: bool, age: float, dice: float) -> float | None:
    """Seconds until the next try; None for the dead letters. A client that waits is not made to wait beyond `answer_within`."""
    if failure.final or attempt > (options.retries or 0):
        return None
    wait = failure.after if failure.after is not None else delay(attempt, options.backoff, dice)
    if answers and age + wait > options.answer_within:
        return None
    return wait
