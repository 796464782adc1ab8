"""The supervisor's children: who they are, where their output goes, how their end is noticed.

Death is decided by exit, never by the end of a channel: a process that user code forked may hold the channel open. An unknown
PID is left unreaped while a spawn is under way, since it may be the worker whose PID the zygote is about to tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.linux import process
from holdfast.linux.channel import Channel, Packet
from holdfast.model.recycling import Limits
from holdfast.supervisor import offspring
from holdfast.supervisor.boards import Memory
from holdfast.supervisor.loop import Loop
from holdfast.supervisor.state import ChildState
from holdfast.telemetry import events

WORKER_MARK = "HOLDFAST_WORKER"  # in the environment of what a worker executes


@dataclass(slots=True)
class Child:
    """One process of ours. `pid` is 0 until the zygote has told it."""

    id: str
    kind: str  # logger, ingress, zygote, twin, prepare, worker, check
    channel: Channel
    job: str = ""
    generation: int = 0  # of the application's code; 0 for what runs none
    pid: int = 0
    pidfd: int = -1
    start_time: int | None = None  # in clock ticks after boot: with the PID it names a process
    log: int = -1  # our copy of the read end of its log pipe
    stacks: int = -1  # memfd into which it writes the stacks of its threads when it is asked
    board: Memory | None = None
    started: float = 0.0
    attached: bool = False  # the ingress knows it
    limits: Limits | None = None  # beyond which it is replaced
    fresh_rss: int = 0  # bytes that it had when it became active
    output: str = ""  # its log pipe, by the kernel's name for it, once it has ended
    facts: dict[str, Any] = field(default_factory=dict)

    def kill(self, number: int) -> None:
        """Send a signal; nothing happens when it is gone."""
        if self.pidfd >= 0:
            process.pidfd_kill(self.pidfd, number)

    def state(self) -> ChildState:
        """It, for the next program."""
        board = self.board.fd if self.board is not None else -1
        return ChildState(
            id=self.id,
            kind=self.kind,
            channel=self.channel.fileno(),
            job=self.job,
            generation=self.generation,
            pid=self.pid,
            log=self.log,
            board=board,
            started=self.started,
            attached=self.attached,
            facts=self.facts,
            stacks=self.stacks,
            limits=self.limits,
            fresh_rss=self.fresh_rss,
        )

    @classmethod
    def of(cls, state: ChildState) -> Child:
        """What the program before knew of it; the pidfd is to be opened."""
        return cls(
            state.id,
            state.kind,
            Channel.from_fd(state.channel),
            job=state.job,
            generation=state.generation,
            pid=state.pid,
            log=state.log,
            board=Memory.of(state.board) if state.board >= 0 else None,
            started=state.started,
            attached=state.attached,
            facts=state.facts,
            stacks=state.stacks,
            limits=state.limits,
            fresh_rss=state.fresh_rss,
        )


class Family:
    """All children by id. `on_packet` gets what they say, `on_exit` how they ended, after which they are forgotten. `write` gets PIDs
    with their start times.
    """

    def __init__(
        self,
        loop: Loop,
        on_packet: Callable[[Child, Packet, list[int]], None],
        on_exit: Callable[[Child, process.Exit], None],
        write: Callable[[Mapping[int, int | None]], None],
    ) -> None:
        self._loop = loop
        self._on_packet = on_packet
        self._on_exit = on_exit
        self._write = write
        self._changed = False
        self._dead: list[Child] = []  # of whom something may be left
        self.members: dict[str, Child] = {}

    def of(self, *kinds: str) -> list[Child]:
        """Children of these kinds, the oldest first."""
        return [child for child in self.members.values() if child.kind in kinds]

    def one(self, kind: str) -> Child | None:
        """The newest child of this kind."""
        found = self.of(kind)
        return found[-1] if found else None

    def zygote(self, generation: int) -> Child | None:
        """The zygote that makes this generation's workers."""
        return next((child for child in self.of("zygote") if child.generation == generation), None)

    def execute(self, child_id: str, launch: offspring.Launch, now: float) -> Child:
        """Start a process of ours; OSError when the machine has no room for it."""
        started = offspring.start(launch)
        child = Child(child_id, launch.kind, started.channel, started=now)
        self._add(child)
        self._born(child, started.pid, started.pidfd)
        return child

    def expect(self, child_id: str, kind: str, job: str, now: float) -> tuple[Child, socket.socket]:
        """A child that the zygote is to fork: it, and the end of its channel to hand over."""
        channel, theirs = Channel.pair()
        child = Child(child_id, kind, channel, job=job, started=now)
        self._add(child)
        return child, theirs

    def born(self, child_id: str, pid: int) -> None:
        """The zygote tells the PID. An unreaped child cannot be recycled, so this names exactly it."""
        child = self.members.get(child_id)
        if child is not None:
            self._born(child, pid, os.pidfd_open(pid))

    def unborn(self, child_id: str) -> Child | None:
        """The child will never be: forget it."""
        child = self.members.get(child_id)
        if child is not None and not child.pid:
            self._forget(child)
            return child
        return None

    def reap(self) -> None:
        """Take every exit that can be taken; called on SIGCHLD and after a spawn was told."""
        while (pid := process.peek()) is not None:
            child = next((c for c in self.members.values() if c.pid == pid), None)
            if child is not None:
                self._ended(child)
            elif any(not c.pid for c in self.members.values()):
                return  # it may be a newborn whose PID is about to be told
            else:
                events.log("stray.reaped", level="debug", stray=pid, how=str(process.reap(pid)))
                self._end_leavings()  # its children are ours now

    def write_down(self) -> None:
        """Write down who is there, where that has changed; but not while one is being born: that one is waited for."""
        if self._changed and all(child.pid for child in self.members.values()):
            self._changed = False
            self._write({child.pid: child.start_time for child in self.members.values()})

    def strays(self) -> list[int]:
        """Children of this process that are none of ours: helpers that user code has left behind."""
        known = {child.pid for child in self.members.values()}
        return [pid for pid in process.children(os.getpid()) if pid not in known]

    def state(self) -> list[ChildState]:
        """Who is there, for the next program."""
        return [child.state() for child in self.members.values()]

    def restore(self, states: list[ChildState]) -> None:
        """Be the family again. Who has died meanwhile is not reaped yet, so each PID is its own."""
        for state in states:
            child = Child.of(state)
            self._add(child)
            if child.pid:
                child.pidfd, child.start_time = os.pidfd_open(child.pid), process.start_time(child.pid)
                self._loop.watch(child.pidfd, lambda child=child: self._ended(child))  # type: ignore[misc]

    def end_left_by(self, child: Child) -> None:
        """End the strays that this child, which has ended, has left, and those that their death leaves to us in turn.

        Others are left alone, since they may be a living worker's.
        """
        self._dead.append(child)
        self._end_leavings()

    def _end_leavings(self) -> None:
        left = {child.id: [pid for pid in self.strays() if _comes_from(pid, child)] for child in self._dead}
        self._dead = [child for child in self._dead if left[child.id]]
        end([pid for pids in left.values() for pid in pids])

    def _add(self, child: Child) -> None:
        self.members[child.id] = child
        self._loop.watch(child.channel.fileno(), lambda: self._heard(child))

    def _born(self, child: Child, pid: int, pidfd: int) -> None:
        child.pid, child.pidfd, child.start_time = pid, pidfd, process.start_time(pid)
        self._loop.watch(pidfd, lambda: self._ended(child))
        self._changed = True

    def _heard(self, child: Child) -> None:
        while child.id in self.members:
            try:
                received = child.channel.receive()
            except EOFError:
                self._loop.forget(child.channel.fileno())
                return
            if received is None:
                return
            self._on_packet(child, *received)

    def _ended(self, child: Child) -> None:
        if child.id not in self.members:
            return
        how = process.reap(child.pid)
        if how is None:
            return
        self._heard(child)  # its last words
        child.output = process.open_file(os.getpid(), child.log)
        self._forget(child)
        self._on_exit(child, how)
        self._changed = True

    def _forget(self, child: Child) -> None:
        self.members.pop(child.id, None)
        self._loop.forget(child.channel.fileno())
        child.channel.close()
        for fd in (child.pidfd, child.log, child.stacks):
            if fd >= 0:
                self._loop.forget(fd)
                os.close(fd)
        if child.board is not None:
            child.board.close()


def _comes_from(pid: int, child: Child) -> bool:
    """Whether this child has made it: it is of its session, was executed with its mark, or writes to its log, as forks do."""
    if process.session(pid) == child.pid or process.has_mark(pid, f"{WORKER_MARK}={child.id}"):
        return True
    return bool(child.output) and process.has_open(pid, child.output)


def end(pids: list[int]) -> None:
    """End strays; each is our own unreaped child, so the PID is its own."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def pipe() -> tuple[int, int]:
    """A log pipe, with room for a burst."""
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # the user's share of pipe memory is used up: the usual size will do
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
    return read, write


def environment(environ: Mapping[str, str], mark: Mapping[str, str]) -> dict[str, str]:
    """What children inherit: ours, marked, and unbuffered, so that what user code prints is logged when it is printed."""
    return {**environ, **mark, "PYTHONUNBUFFERED": "1"}
