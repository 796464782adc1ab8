"""All that a supervisor knows, as plain values: what it hands to the program that takes its place in the same process.

Descriptors are numbers, which stay what they are through an exec. What the kernel or the new program has afresh is not here:
pidfds, the loop, the wake-up pipe. `VERSION` is another one when a program that does not know it would go wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from holdfast.linux.privileges import Identity
from holdfast.model.fleet_state import FleetState
from holdfast.model.frozen import UnknownForm, freeze, thaw
from holdfast.model.options import DaemonOptions
from holdfast.model.recycling import Limits
from holdfast.model.urls import SourceAddress
from holdfast.supervisor.boards import Totals
from holdfast.supervisor.generation import Generation
from holdfast.supervisor.offspring import Program

VERSION = 1


@dataclass(frozen=True, slots=True)
class GroundState:
    """`document` is what the command line gave; `program` what is executed at an upgrade, links not followed."""

    document: dict[str, Any]
    program: Program
    options: DaemonOptions
    identity: Identity | None
    locks: tuple[int, ...]
    terminal: int


@dataclass(frozen=True, slots=True)
class ChildState:
    """`-1` is no descriptor. A child without PID is one that a zygote has been asked for."""

    id: str
    kind: str
    channel: int
    job: str
    generation: int
    pid: int
    log: int
    board: int
    started: float
    attached: bool
    facts: dict[str, Any]
    stacks: int = -1
    limits: Limits | None = None
    fresh_rss: int = 0


@dataclass(frozen=True, slots=True)
class DoorState:
    """One door of an ingress, with the descriptor of its listener."""

    id: str
    job: str
    row: int
    address: SourceAddress
    limits: dict[str, int]
    listener: int


@dataclass(frozen=True, slots=True)
class FormerState:
    """The ingress before, whose clients have not all left."""

    ingress: str
    epoch: int
    tally: int
    doors: list[DoorState]


@dataclass(frozen=True, slots=True)
class EntriesState:
    """The doors, and which ingress serves them."""

    doors: list[DoorState]
    listening: set[str]
    epoch: int
    tally: int
    numbers: int
    former: FormerState | None = None
    leaving: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationsState:
    """The generations that have processes, by number the one that runs and the newest."""

    known: list[Generation]
    current: int
    newest: int


@dataclass(frozen=True, slots=True)
class LogsState:
    """The logger, and what it has lost."""

    ready: bool
    lost: int
    starts: int
    own: int


@dataclass(frozen=True, slots=True)
class EffectsState:
    """What is still to follow: until when a worker may take to end, and which jobs leave the ingress."""

    kills: dict[str, float]
    removing: set[str]


@dataclass(frozen=True, slots=True)
class ClientState:
    """One control connection: what is half read and half written."""

    fd: int
    deadline: float | None
    received: bytes
    unsent: bytes
    asked: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class ServerState:
    """The control socket and its connections."""

    listener: int
    clients: list[ClientState]
    interrupts: int


@dataclass(frozen=True, slots=True)
class WaitingState:
    """Who waits for which verdict: control connections, -1 for a signal, which hears nothing. `last` is the verdict before."""

    upgrade: list[int]
    full: list[int]
    settings: list[int]
    last: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class State:
    """`signals` were taken from the kernel and not yet acted upon. `before` is the version of the program that wrote this."""

    before: str
    ground: GroundState
    started: float
    fleet: FleetState
    generations: GenerationsState
    children: list[ChildState]
    entries: EntriesState
    logs: LogsState
    effects: EffectsState
    totals: dict[str, Totals]
    numbers: int
    settings_numbers: int
    respawns: dict[str, float]
    watch: tuple[float, float]
    server: ServerState
    waiting: WaitingState
    signals: bytes = b""

    def descriptors(self) -> Iterator[int]:
        """All that must be there in the next program."""
        single = (*self.ground.locks, self.ground.terminal, self.entries.tally, self.logs.own, self.server.listener)
        yield from (fd for fd in single if fd >= 0)
        for child in self.children:
            yield from (fd for fd in (child.channel, child.log, child.board, child.stacks) if fd >= 0)
        former = self.entries.former
        yield from (door.listener for door in (*self.entries.doors, *(former.doors if former is not None else ())) if door.listener >= 0)
        if former is not None and former.tally >= 0:
            yield former.tally
        yield from (client.fd for client in self.server.clients)


@dataclass(frozen=True, slots=True)
class Envelope:
    """The state as it is handed over. What is outside of it can be read by a program that cannot read the state.

    `writer` is the program that wrote it, links followed: where to go back to. `refused` says why the one that it was handed to could
    not go on; empty on the way there.
    """

    version: int
    state: Any
    descriptors: list[int]
    writer: Program
    refused: str = ""

    @classmethod
    def of(cls, state: State, writer: Program) -> Envelope:
        """With the state in it."""
        return cls(VERSION, freeze(state), list(state.descriptors()), writer)

    def opened(self) -> State:
        """The state. UnknownForm when it is of a version that this program does not know, or makes no sense."""
        if self.version != VERSION:
            raise UnknownForm(f"the state is of version {self.version}, and this program knows {VERSION}")
        return thaw(State, self.state)

    def to_bytes(self) -> bytes:
        """For a memory file."""
        return json.dumps(freeze(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """What `to_bytes` made; UnknownForm when it is none."""
        try:
            return thaw(cls, json.loads(data))
        except json.JSONDecodeError as error:
            raise UnknownForm(f"the state is no JSON: {error}") from None
