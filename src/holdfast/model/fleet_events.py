"""What happens to the fleet, and what the fleet wants done: the two languages of `holdfast.model.fleet`, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """How one generation wants one job to run. Limits are in seconds."""

    slots: int
    overlap: bool = True
    start_limit: float = 30.0
    drain_limit: float = 30.0


Plans = Mapping[str, Plan]


# --- what happens ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """The first generation is loaded and prepared: its workers may start."""

    generation: int
    plans: Plans


@dataclass(frozen=True, slots=True)
class Roll:
    """Another generation is loaded and prepared: replace the present one by it, slot by slot."""

    generation: int
    plans: Plans
    probation: float


@dataclass(frozen=True, slots=True)
class RollBack:
    """The generation that is being rolled out cannot go on."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is set up, and waits to be activated."""

    worker: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The worker is reaped. `how` is for people; `killed`: by SIGKILL, which is not its code's doing unless we sent it.

    `worked`: it had handled something; `born`: it had come to life; `unavailable`: its store or broker was not to be had.
    """

    worker: str
    how: str
    killed: bool = False
    worked: bool = False
    born: bool = True
    unavailable: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """There is no such worker: it could not be forked."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Hung:
    """A handler of the worker is over its time limit, or its loop is stuck."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suspects:
    """So many messages of the job wait for quarantine; with `beside` in the ingress before."""

    job: str
    count: int
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Another ingress is there for these jobs: who works stays with the one before, and as many others start."""

    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """One ingress is left: the one that came, whose workers stay; or, with `back`, the one that was there before."""

    back: bool = False


@dataclass(frozen=True, slots=True)
class Replace:
    """Put an heir beside this worker, which drains when the heir is ready."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scale:
    """So many slots, until a configuration says something else."""

    job: str
    slots: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Nothing comes in for this job any more, which is not wanted any more: its workers may go."""

    job: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Drain everything within so many seconds; nothing is spawned any more."""

    within: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A deadline may have come."""


Event = Launch | Roll | RollBack | Ready | Exited | SpawnFailed | Hung | Suspects | Replace | Scale | Retire | Part | Join | Stop | Tick


# --- what to do --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawn:
    """Have the generation's zygote fork this worker."""

    worker: str
    job: str
    slot: int
    generation: int
    quarantine: bool


@dataclass(frozen=True, slots=True)
class Activate:
    """Let the worker take messages."""

    worker: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Let the worker finish what it has begun, and end."""

    worker: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End it now; `stacks` asks for its stacks first."""

    worker: str
    stacks: bool


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log, about a worker or about a job."""

    event: str
    worker: str
    text: str
    job: str = ""
    level: str = "warning"


@dataclass(frozen=True, slots=True)
class Progress:
    """A line for those who wait for the rollout."""

    text: str


@dataclass(frozen=True, slots=True)
class RolledOut:
    """The verdict: this generation has proved itself, the one before is not needed any more."""

    generation: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """The verdict: nothing of this generation runs any more."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class Removed:
    """The job is not wanted any more: let nothing come in for it, then say `Retire`."""

    job: str


Effect = Spawn | Activate | Drain | Kill | Note | Progress | RolledOut | RolledBack | Removed
