"""The life of one process, as a table: it goes one way only, and each state that can last too long has a deadline."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Life(enum.IntEnum):
    """States in the order in which they can follow each other."""

    STARTING = 0  # asked for; may not have a PID yet
    READY = 1  # set up; gets no work yet
    ACTIVE = 2  # gets work
    DRAINING = 3  # finishes what it has begun
    DEAD = 4  # reaped


class Step(enum.Enum):
    """What can happen to a process."""

    SAID_READY = "said ready"
    ACTIVATED = "activated"
    DRAIN = "told to drain"
    EXITED = "exited"


#: Total: every state and step has a cell. A step that changes nothing names its own state, so that late packets are harmless.
LIFE: dict[tuple[Life, Step], Life] = {
    (Life.STARTING, Step.SAID_READY): Life.READY,
    (Life.STARTING, Step.ACTIVATED): Life.STARTING,  # not before it is ready
    (Life.STARTING, Step.DRAIN): Life.DRAINING,
    (Life.STARTING, Step.EXITED): Life.DEAD,
    (Life.READY, Step.SAID_READY): Life.READY,
    (Life.READY, Step.ACTIVATED): Life.ACTIVE,
    (Life.READY, Step.DRAIN): Life.DRAINING,
    (Life.READY, Step.EXITED): Life.DEAD,
    (Life.ACTIVE, Step.SAID_READY): Life.ACTIVE,
    (Life.ACTIVE, Step.ACTIVATED): Life.ACTIVE,
    (Life.ACTIVE, Step.DRAIN): Life.DRAINING,
    (Life.ACTIVE, Step.EXITED): Life.DEAD,
    (Life.DRAINING, Step.SAID_READY): Life.DRAINING,  # said before it heard of the drain
    (Life.DRAINING, Step.ACTIVATED): Life.DRAINING,
    (Life.DRAINING, Step.DRAIN): Life.DRAINING,
    (Life.DRAINING, Step.EXITED): Life.DEAD,
    (Life.DEAD, Step.SAID_READY): Life.DEAD,
    (Life.DEAD, Step.ACTIVATED): Life.DEAD,
    (Life.DEAD, Step.DRAIN): Life.DEAD,
    (Life.DEAD, Step.EXITED): Life.DEAD,
}


@dataclass(slots=True)
class Worker:
    """One worker process, from the wish to have it to its reaping. Times are monotonic seconds."""

    id: str
    job: str
    slot: int
    generation: int
    quarantine: bool = False
    life: Life = Life.STARTING
    deadline: float | None = None  # when it is killed, unless it has moved on
    since: float = 0.0  # of its present state
    killed: bool = False  # was overdue: only its exit is awaited
    reason: str = ""  # why it was told to go

    def step(self, step: Step, now: float, limit: float | None) -> bool:
        """Move along the table; True when the state changed, and then the new state's time limit is `limit` from now."""
        after = LIFE[self.life, step]
        if after is self.life:
            return False
        self.life, self.since = after, now
        self.deadline = None if limit is None else now + limit
        return True
