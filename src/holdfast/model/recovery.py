"""When the guard starts a supervisor that has ended, at once, later, or not at all; and when it ends one that hangs. Pure; seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

STABLE_AFTER = 30.0  # a supervisor that was ready so long has not ended because of how it was started
FREE_ENDS = 3  # so many ends in a row are followed by a start at once
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
_DOUBLINGS_THAT_MATTER = 30
LONGEST_INTERVAL = 20.0  # between two questions to the supervisor


class Look(Enum):
    """What a look at the supervisor comes to."""

    ASK = "ask"
    WAIT = "wait"
    HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Row:
    """How many times in a row the supervisor has ended before it was stable."""

    ends: int = 0

    def after(self, ready_for: float) -> Row:
        """It has ended once more, `ready_for` seconds after it became ready; 0 when it never was."""
        return Row(1 if ready_for >= STABLE_AFTER else self.ends + 1)

    def pause(self, dice: float) -> float:
        """Seconds before the next start: none at first, then doubling to the longest; `dice` (0 to 1) takes away up to a half."""
        late = self.ends - FREE_ENDS
        if late <= 0:
            return 0.0
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(late - 1, _DOUBLINGS_THAT_MATTER)) * (1.0 - dice / 2)


def starts_again(*, status: int, killed: bool, asked: bool, was_ready: bool) -> bool:
    """Whether a supervisor that has ended is to be started again.

    Not when its end was `asked` for, and not when it ended well, which is how `stop` ends it. Not when no start has succeeded yet
    (`was_ready`): then somebody waits for the verdict.
    """
    return was_ready and not asked and (killed or status != 0)


@dataclass(frozen=True, slots=True)
class Silence:
    """Whether a supervisor that lives still answers: it is asked something every `interval`, and looked at then."""

    patience: float
    looked_at: float
    asked_at: float | None = None  # the question that it has not answered yet

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return min(LONGEST_INTERVAL, self.patience / 3)

    @property
    def next_look(self) -> float:
        """When to look again."""
        return self.looked_at + self.interval

    def answered(self) -> Silence:
        """It has said something."""
        return replace(self, asked_at=None)

    def look(self, now: float) -> tuple[Silence, Look]:
        """What to do now. Who looks late itself (stopped, a machine that slept) has no right to judge: it asks again first."""
        late = now - self.looked_at > 2 * self.interval
        if self.asked_at is None or late:
            return replace(self, looked_at=now, asked_at=now), Look.ASK
        return replace(self, looked_at=now), Look.HUNG if now - self.asked_at >= self.patience else Look.WAIT


def has_other_guard(environ: Mapping[str, str], parent: str) -> bool:
    """Whether a service manager watches this very process already; `parent` is the name of the process that made it.

    INVOCATION_ID alone says little: it is inherited by whatever is started from a service.
    """
    return bool(environ.get("NOTIFY_SOCKET")) or (bool(environ.get("INVOCATION_ID")) and parent == "systemd")
