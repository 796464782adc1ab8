"""What a service manager is told, and when: sd_notify(3) and sd_watchdog_enabled(3) of systemd. Pure; seconds, monotonic.

`words` compares how things stand with what was said last, so that nothing is said twice, and what could not be said (the manager's
socket is full) is made up for by the next look, in its newest form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

ADDRESS, INTERVAL, FOR_WHOM = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
MARGIN = 15.0  # seconds beyond our own limits after which the manager may take us for wedged
LONGEST_STATUS = 400  # characters
NOBODY_WATCHES = float("inf")
_USEC = 1_000_000


class Phase(Enum):
    """What the manager believes of us."""

    SILENT = "nothing was said yet"
    STARTING = "starting"
    READY = "ready"
    CHANGING = "reloading, upgrading or restarting"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Manager:
    """Who started us and wants to be told; `interval` is how often its watchdog wants to be fed at least. `flaw`: what makes no sense."""

    address: str = ""  # empty: nobody
    interval: float = NOBODY_WATCHES
    flaw: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int) -> Manager:
        """As the environment of the process with this PID says."""
        address, usec = environ.get(ADDRESS, ""), environ.get(INTERVAL, "")
        if not address:
            return cls()
        if address[0] not in "/@" or len(address) == 1:
            return cls(flaw=f"{ADDRESS}={address} is neither a whole path nor '@' and a name: the service manager is told nothing")
        if not usec or environ.get(FOR_WHOM, str(pid)) != str(pid):
            return cls(address)
        if not (usec.isascii() and usec.isdecimal() and int(usec)):
            return cls(address, flaw=f"{INTERVAL}={usec} is no number of microseconds: the watchdog is not fed")
        return cls(address, int(usec) / _USEC)


def for_children(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what was meant for the supervisor alone."""
    return {name: value for name, value in environ.items() if name not in (ADDRESS, INTERVAL, FOR_WHOM)}


@dataclass(frozen=True, slots=True)
class Standing:
    """How things stand. `state` is the supervisor's: starting, running, stopping."""

    pid: int
    state: str
    restarting: bool = False  # the stop is followed by a start of the same process
    changing: bool = False  # a reload or upgrade is under way
    follows: bool = False  # another one waits for its turn, which has come
    change: float = 0.0  # when the newest one has begun
    limit: float = 0.0  # when a start or stop under way is over at the latest
    status: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What the manager knows. `change` is when the change had begun that it was told of last."""

    phase: Phase = Phase.SILENT
    change: float = 0.0
    status: str = ""


def phase(standing: Standing, before: Phase) -> Phase:
    """What the manager is to believe. Between a change and the next, as in an upgrade, which a reload follows, nothing is ready."""
    if standing.state == "starting":
        return Phase.STARTING
    if standing.state == "stopping":
        return Phase.CHANGING if standing.restarting else Phase.STOPPING
    if standing.changing or (standing.follows and before is Phase.CHANGING):
        return Phase.CHANGING
    return Phase.READY


def words(said: Said, standing: Standing, now: float) -> tuple[list[str], Said]:
    """What to say, as assignments of one message, and what the manager knows after it."""
    after = Said(phase(standing, said.phase), standing.change, standing.status)
    found: list[str] = []
    if after.phase is not said.phase or (after.phase is Phase.CHANGING and after.change > said.change):
        found += _announce(after.phase, standing, now)
    if after.status != said.status:
        found.append(f"STATUS={after.status}")
    return found, after


def _announce(now_in: Phase, standing: Standing, now: float) -> list[str]:
    match now_in:
        case Phase.READY:
            return ["READY=1", f"MAINPID={standing.pid}"]
        case Phase.CHANGING:
            return ["RELOADING=1", f"MONOTONIC_USEC={int(now * _USEC)}"]
        case Phase.STOPPING:
            return ["STOPPING=1", _extend(standing, now)]
        case _:
            return [_extend(standing, now)]


def _extend(standing: Standing, now: float) -> str:
    """Our own limits are known better here than in the unit file."""
    return f"EXTEND_TIMEOUT_USEC={int((max(0.0, standing.limit - now) + MARGIN) * _USEC)}"


@dataclass(frozen=True, slots=True)
class JobLook:
    """One job for the status line: its state and reason, as `status` shows them, and how many workers it has."""

    name: str
    state: str
    reason: str
    workers: int

    def __str__(self) -> str:
        if self.state == "running":
            return f"{self.name} {self.workers} worker{'s' if self.workers != 1 else ''}"
        return f"{self.name} {self.state}" + (f" ({self.reason})" if self.reason else "")


def status_line(state: str, step: str, jobs: Sequence[JobLook] = (), refused: str = "") -> str:
    """One line for `systemctl status`: trouble comes first, since the line may be cut."""
    head = f"{state}: {step}" if step else state
    parts = [head, *([f"the last reload was refused: {refused}"] if refused else [])]
    if jobs:
        parts.append(", ".join(str(job) for job in sorted(jobs, key=lambda job: job.state == "running")))
    line = " ".join("; ".join(parts).split())
    return line if len(line) <= LONGEST_STATUS else line[: LONGEST_STATUS - 1] + "…"
