"""A start, or a stop, as a list of named steps: each begins something, and is over when its condition holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

STOOD_STILL = 1.0  # who looks so many seconds after a deadline has stood still itself


@dataclass(frozen=True, slots=True)
class Step:
    """`begin` acts, `done` looks. After `limit` seconds `late` is called, once; without a limit a step may last for ever."""

    name: str
    begin: Callable[[], None]
    done: Callable[[], bool]
    limit: Callable[[], float] | None = None
    late: Callable[[], None] | None = None


class Agenda:
    """Goes through the steps, one after the other, as far as it comes; call `advance` after each event."""

    def __init__(self, steps: Sequence[Step], on_step: Callable[[str], None]) -> None:
        self._steps = list(steps)
        self._on_step = on_step
        self._at = -1
        self._deadline: float | None = None

    def over(self) -> bool:
        """Whether every step is done."""
        return self._at >= len(self._steps)

    @property
    def current(self) -> str:
        """The name of the step under way."""
        return self._steps[self._at].name if 0 <= self._at < len(self._steps) else ""

    def next_deadline(self) -> float | None:
        """When the step under way is late."""
        return self._deadline

    def advance(self, now: float) -> None:
        """Begin the next steps while the one under way is done."""
        while not self.over() and (self._at < 0 or self._steps[self._at].done()):
            self._at += 1
            self._deadline = None
            if self.over():
                return
            step = self._steps[self._at]
            self._on_step(step.name)
            if step.limit is not None:
                self._deadline = now + max(0.0, step.limit())
            step.begin()
        if self._deadline is not None and now >= self._deadline:
            late_by, step, self._deadline = now - self._deadline, self._steps[self._at], None
            if late_by > STOOD_STILL and step.limit is not None:  # so may have those who are awaited
                self._deadline = now + max(0.0, step.limit())
            elif step.late is not None:
                step.late()
