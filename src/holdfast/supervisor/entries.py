"""The ways in: doors, whose listeners the supervisor binds and keeps, and the ingress that serves them.

A door is one address of one job. During a rollout a job may have two: the new one is open before the old one is given up. A door's
address never changes; where a generation wants another, that is another door.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from holdfast.errors import ConfigurationError, UnavailableError
from holdfast.linux.privileges import Identity, as_user
from holdfast.linux.steering import release, steer
from holdfast.model import tally
from holdfast.model.job_options import JobConfig
from holdfast.model.options import JobOptions
from holdfast.model.units import show_size
from holdfast.model.urls import SourceAddress
from holdfast.supervisor.boards import Memory
from holdfast.supervisor.family import Child
from holdfast.supervisor.listeners import BACKLOG, bind_tcp, bind_unix, coming, join_tcp, join_unix
from holdfast.supervisor.state import DoorState, EntriesState, FormerState

_LIMITS = ("in_flight", "in_flight_bytes", "in_flight_per_client", "max_message", "max_clients", "crash_limit")

Jobs = Mapping[str, JobConfig]


@dataclass(frozen=True, slots=True)
class Door:
    """One address of one job. `listener` is ours; the ingress has a copy. None where the job connects."""

    id: str
    job: str
    row: int
    address: SourceAddress
    limits: Mapping[str, int]
    listener: socket.socket | None

    @property
    def endpoint(self) -> str:
        """Where it really listens: port 0 has become a number."""
        address = self.address
        if self.listener is None or address.port or address.path:
            return address.endpoint
        return f"{address.endpoint.rpartition(':')[0]}:{self.listener.getsockname()[1]}"

    def state(self) -> DoorState:
        """It, for the next program."""
        listener = self.listener.fileno() if self.listener is not None else -1
        return DoorState(self.id, self.job, self.row, self.address, dict(self.limits), listener)

    @classmethod
    def of(cls, state: DoorState) -> Door:
        """What the program before had bound."""
        listener = socket.socket(fileno=state.listener) if state.listener >= 0 else None
        if listener is not None:
            listener.setblocking(False)
        return cls(state.id, state.job, state.row, state.address, state.limits, listener)

    def packet(self) -> dict[str, Any]:
        """What the ingress is told of it."""
        return {
            "do": "listen",
            "door": self.id,
            "job": self.job,
            "row": self.row,
            "transport": self.address.transport,
            "endpoint": self.endpoint,
            "connect": self.address.connect,
            "topics": list(self.address.topics),
            "limits": self.limits,
        }


@dataclass(slots=True)
class Former:
    """An ingress whose place another one takes, or has taken: its name in the family, its epoch, its tally, its own listeners."""

    ingress: str
    epoch: int
    tally: Memory | None
    doors: dict[str, Door]

    def close(self) -> None:
        """It has gone: its listeners and its tally are nobody's."""
        for door in self.doors.values():
            if door.listener is not None:
                door.listener.close()
        if self.tally is not None:
            self.tally.close()


class Entries:
    """All doors, and what an ingress is told of them, again for each ingress: a new one has a new epoch and the same listeners."""

    def __init__(self, identity: Identity | None) -> None:
        self._identity = identity
        self.doors: dict[str, Door] = {}
        self.listening: set[str] = set()  # doors that the ingress has opened
        self.epoch = 0
        self._tally: Memory | None = None
        self._numbers = 0
        self.former: Former | None = None
        self._leaving: dict[str, tuple[str, str]] = {}  # doors that serve on for who is connected: their jobs and addresses

    def jobs(self) -> set[str]:
        """Those that have a door."""
        return {door.job for door in self.doors.values()}

    def bind(self, jobs: Jobs) -> list[Door]:
        """Bind what these jobs want and nobody has bound yet; the new doors. All or none.

        UnavailableError or NoRightsError, naming the job, when an address cannot be had; ConfigurationError for what cannot change while
        the address stays.
        """
        new: list[Door] = []
        try:
            for name, job in jobs.items():
                if job.source is not None:
                    there = self._door(name, job.source)
                    if there is None:
                        new.append(self._make(name, job.source, job.options))
                    else:
                        _require_same_message(there, job.options)
        except Exception:
            self.give_up(new)
            raise
        return new

    def begin(self) -> int:
        """A new ingress is coming: a new epoch, a new tally, whose descriptor stays ours."""
        self.epoch = int.from_bytes(os.urandom(8), "big") >> 2 | 1  # `secrets` would bring libcrypto
        self.listening.clear()
        self._leaving.clear()  # it knows nobody of the one before
        if self._tally is not None:
            self._tally.close()
        self._tally = Memory.make("tally", tally.SIZE)
        return self._tally.fd

    @staticmethod
    def introduce(ingress: Child, doors: Iterable[Door]) -> None:
        """Tell the ingress what to serve."""
        for door in doors:
            ingress.channel.send(door.packet(), [door.listener.fileno()] if door.listener is not None else [])

    def give_up(self, doors: Iterable[Door], *, served: bool = False) -> None:
        """Close our listeners of these; who is connected is the ingress's affair, where the door is still `served`."""
        for door in list(doors):
            if served and door.listener is not None:
                self._leaving[door.id] = door.job, door.endpoint
            self.doors.pop(door.id, None)
            other = self.former.doors.pop(door.id, None) if self.former is not None else None
            if other is not None and other.listener is not None:
                other.listener.close()
            self.listening.discard(door.id)
            if door.listener is not None:
                door.listener.close()
            if door.listener is not None and door.address.path:
                with as_user(self._identity):
                    if os.path.exists(door.address.path):
                        os.unlink(door.address.path)

    def retired(self, door: str) -> None:
        """The last client of this door has left: its address is free."""
        self._leaving.pop(door, None)

    def removed(self, job: str) -> None:
        """The ingress serves nobody of this job any more."""
        for door in [door for door, (its_job, _) in self._leaving.items() if its_job == job]:
            del self._leaving[door]

    def unwanted(self, jobs: Jobs) -> list[Door]:
        """Doors that these jobs do not want."""
        return [door for door in self.doors.values() if door.job not in jobs or jobs[door.job].source != door.address]

    def tally(self, job: str) -> dict[str, int]:
        """What the ingress counts for this job just now."""
        row = next(door.row for door in self.doors.values() if door.job == job)
        memories = (self._tally, self.former.tally if self.former is not None else None)
        rows = [tally.read(one.view, row) for one in memories if one is not None]
        return {name: sum(one[name] for one in rows) for name in tally.COLUMNS}

    def endpoint(self, job: str) -> str:
        """Where the job listens; with two doors, the newer one."""
        return [door.endpoint for door in self.doors.values() if door.job == job][-1]

    def close(self) -> None:
        """Serve nobody any more; only when no ingress is left."""
        if self.former is not None:
            for door in self.doors.values():
                self._unlink_coming(door)
            self.forget_former()
        self.give_up(self.doors.values())

    # --- another ingress in place of the one that is there

    def part(self, ingress: str) -> None:
        """Make listeners of their own for an ingress that is to come; nobody is let in by them yet. OSError: nothing has changed."""
        former = Former(ingress, self.epoch, self._tally, dict(self.doors))
        new: dict[str, Door] = {}
        try:
            for door in former.doors.values():
                new[door.id] = replace(door, listener=self._join(door))
        except OSError:
            self._close_joined(new)
            raise
        self.former, self.doors, self._tally = former, new, None

    def turn_over(self) -> None:
        """From now on whoever connects meets the new ingress."""
        for door in self.doors.values():
            if door.address.path and door.listener is not None:
                with as_user(self._identity):
                    os.rename(coming(door.address.path), door.address.path)
        for door in self.former.doors.values() if self.former is not None else ():
            if door.listener is not None and not door.address.path:
                steer(door.listener, 1)

    def turn_back(self) -> None:
        """The new ingress came to nothing: everything is as it was. Its copies of the listeners may live a little: nobody is led there."""
        former = self.former
        assert former is not None
        self._close_joined(self.doors)
        if self._tally is not None:
            self._tally.close()
        self.former, self.epoch, self._tally, self.doors = None, former.epoch, former.tally, former.doors
        self.listening = set(self.doors)

    def forget_former(self) -> None:
        """The ingress before has gone."""
        if self.former is not None:
            self.former.close()
            self.former = None
            for door in self.doors.values():
                if door.listener is not None and not door.address.path:
                    release(door.listener)

    def epoch_of(self, *, former: bool) -> int:
        """Of the ingress that serves, or of the one before."""
        return self.former.epoch if former and self.former is not None else self.epoch

    def _join(self, door: Door) -> socket.socket | None:
        if door.listener is None:
            return None
        if door.address.path:
            with as_user(self._identity):
                return join_unix(door.address.path)
        other = join_tcp(door.listener)
        steer(door.listener, 0)
        other.listen(BACKLOG)
        return other

    def _close_joined(self, doors: Mapping[str, Door]) -> None:
        for door in doors.values():
            if door.listener is not None:
                door.listener.close()
                self._unlink_coming(door)

    def _unlink_coming(self, door: Door) -> None:
        """Of a socket that has not taken its path yet."""
        if door.address.path:
            with as_user(self._identity), contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.lstat(coming(door.address.path)).st_mode):
                    os.unlink(coming(door.address.path))

    def state(self) -> EntriesState:
        """All of it, for the next program."""
        tally_fd = self._tally.fd if self._tally is not None else -1
        doors = [door.state() for door in self.doors.values()]
        return EntriesState(doors, self.listening, self.epoch, tally_fd, self._numbers, self._former_state(), self._leaving)

    def _former_state(self) -> FormerState | None:
        former = self.former
        if former is None:
            return None
        tally_fd = former.tally.fd if former.tally is not None else -1
        return FormerState(former.ingress, former.epoch, tally_fd, [door.state() for door in former.doors.values()])

    def restore(self, state: EntriesState) -> None:
        """Go on with the same doors."""
        self.doors = {one.id: Door.of(one) for one in state.doors}
        self.listening, self.epoch, self._numbers = state.listening, state.epoch, state.numbers
        self._tally = Memory.of(state.tally) if state.tally >= 0 else None
        self._leaving = state.leaving
        if (old := state.former) is not None:
            memory = Memory.of(old.tally) if old.tally >= 0 else None
            self.former = Former(old.ingress, old.epoch, memory, {one.id: Door.of(one) for one in old.doors})

    def _door(self, job: str, address: SourceAddress) -> Door | None:
        return next((door for door in self.doors.values() if (door.job, door.address) == (job, address)), None)

    def _make(self, job: str, address: SourceAddress, options: JobOptions) -> Door:
        self._numbers += 1
        door = Door(f"{job}#{self._numbers}", job, self._row(job), address, limits(options), self._bind(job, address))
        self.doors[door.id] = door
        return door

    def _row(self, job: str) -> int:
        """The job's row in the tally, or the first free one."""
        rows = {door.job: door.row for door in self.doors.values()}
        return rows.get(job, next(row for row in range(len(rows) + 1) if row not in rows.values()))

    def _bind(self, job: str, address: SourceAddress) -> socket.socket | None:
        if address.connect:
            return None
        for door in self.doors.values():
            if (door.address.host, door.address.port, door.address.path) == (address.host, address.port, address.path) and (
                address.port or address.path
            ):
                raise UnavailableError(
                    f"{address.endpoint} is in use by job {door.job} of this daemon",
                    where=f"job {job}, source",
                    remedy="take another address, or restart",
                )
        if address.path:
            with as_user(self._identity):
                return bind_unix(address.path)
        if any(endpoint == address.endpoint for _, endpoint in self._leaving.values()):
            raise UnavailableError(
                f"{address.endpoint} was given up, and clients that were connected then are still served there",
                where=f"job {job}, source",
                remedy="try again when they have left, take another address, or restart",
            )
        return bind_tcp(address.host, address.port)


def _require_same_message(door: Door, options: JobOptions) -> None:
    """libzmq knows the size when a door is made, and for as long as it is there."""
    before, after = door.limits["max_message"], options.max_message
    if before != after:
        raise ConfigurationError(
            f"max_message cannot change by a reload while the address stays: it is {show_size(before)} and would be {show_size(after)}",
            where=f"job {door.job}",
            remedy="give it another address in the same reload, or restart",
        )


def limits(options: JobOptions) -> dict[str, int]:
    """What the ingress has to keep to for a job."""
    values = asdict(options)
    return {key: values[key] for key in _LIMITS}
