"""Starting a process of ours: fork, drop, read back, execute. The supervisor never forks without executing (trap: a forked
child would keep the lock after the supervisor was killed).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.linux import autogroup, privileges
from holdfast.linux.channel import Channel, to_memfd
from holdfast.linux.privileges import Identity
from holdfast.model.notify import for_children

ENTRY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "process.py")
STANDARD_LIBRARY_ONLY = ("-I", "-S")


@dataclass(frozen=True, slots=True)
class Program:
    """What is executed: an interpreter, and the entry of every process."""

    executable: str
    entry: str

    def words(self, *more: str, flags: Sequence[str] = ()) -> list[str]:
        """The command line."""
        return [self.executable, *flags, self.entry, *more]


#: As it was called, links not followed: who installs another version behind a link changes what this names.
CALLED = Program(sys.executable, ENTRY)
#: The files themselves, as they were found when this process began.
ITSELF = Program(
    os.path.join(os.path.realpath(os.path.dirname(sys.executable)), os.path.basename(sys.executable)),
    os.path.realpath(ENTRY),
)


@dataclass(frozen=True, slots=True)
class Launch:
    """What to execute, as whom, with which descriptors. `fds` are passed under their own numbers, named on the command line."""

    kind: str
    boot: Mapping[str, Any]
    directory: str
    umask: int
    environ: Mapping[str, str]
    identity: Identity | None
    log_fd: int
    flags: Sequence[str] = ()
    fds: Mapping[str, int] = field(default_factory=dict)
    program: Program = CALLED
    modest: bool = False  # a modest share of the processor, until it claims its full one itself


@dataclass(slots=True)
class Process:
    """A child: its PID, a descriptor that names exactly it, and our end of its channel."""

    pid: int
    pidfd: int
    channel: Channel

    def kill(self, number: int) -> None:
        """Send a signal; nothing happens when it is gone."""
        if self.pidfd >= 0:
            signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Give back the descriptors, once it is reaped."""
        self.channel.close()
        os.close(self.pidfd)


def start(launch: Launch) -> Process:
    """Start it; OSError when the machine has no room for it. A child that cannot drop ends with status 70 before it runs anything."""
    channel, theirs = Channel.pair()
    boot = to_memfd(f"{launch.kind}-boot", json.dumps(launch.boot).encode())
    try:
        pid = os.fork()
        if pid == 0:
            _become(launch, theirs, boot)
    finally:
        theirs.close()
        os.close(boot)
    return Process(pid, os.pidfd_open(pid), channel)


def _become(launch: Launch, channel: socket.socket, boot: int) -> None:
    """In the child: never returns."""
    try:
        os.setsid()
        if launch.modest:
            autogroup.set_share(autogroup.MODEST, patience=1.0)
        _clean_signals()
        _standard_streams(launch.log_fd)
        os.umask(launch.umask)
        if launch.identity is not None and os.geteuid() == 0:
            privileges.drop(launch.identity)
        os.chdir(launch.directory)
        passed = {"channel": channel.fileno(), "boot": boot, **launch.fds}
        _keep_only(set(passed.values()))
        words = [word for name, fd in passed.items() for word in (f"--{name}", str(fd))]
        command = launch.program.words(launch.kind, *words, flags=launch.flags)
        os.execve(launch.program.executable, command, for_children(launch.environ))
    except BaseException as error:
        os.write(2, f"{launch.kind} could not be started: {error}\n".encode())
    os._exit(70)


def _clean_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _keep_only(fds: set[int]) -> None:
    """Nothing undeclared reaches the child, whatever was inherited by the supervisor itself."""
    for fd in [int(name) for name in os.listdir("/proc/self/fd")]:
        if fd > 2:
            with contextlib.suppress(OSError):  # the listing's own descriptor is gone by now
                os.set_inheritable(fd, fd in fds)


def _standard_streams(log_fd: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
