"""Processes: prctl, pidfds, exit notices and what /proc says of a PID. Thin wrappers; no policy."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
from dataclasses import dataclass

#: Has a worker write the stacks of its threads into its `stacks` memfd.
STACKS_SIGNAL = signal.SIGRTMIN + 1

PR_SET_NAME, PR_SET_CHILD_SUBREAPER, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 15, 36, 24, 38

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(what: int, value: int | bytes = 0) -> None:
    """One prctl; OSError when the kernel refuses."""
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(what, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended: exit status, or the signal that killed it."""

    pid: int
    status: int = 0
    signal: int = 0

    def __str__(self) -> str:
        return f"killed by {signal.Signals(self.signal).name}" if self.signal else f"exit status {self.status}"


def peek() -> int | None:
    """PID of some child that has ended and is not reaped yet; None when there is none."""
    try:
        notice = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return notice.si_pid if notice else None


def reap(pid: int) -> Exit | None:
    """Take the exit notice of this child; None while it lives, or is not our child (yet)."""
    try:
        notice = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if notice is None:
        return None
    if notice.si_code == os.CLD_EXITED:
        return Exit(pid, status=notice.si_status)
    return Exit(pid, signal=notice.si_status)


def pidfd_kill(pidfd: int, number: int) -> bool:
    """Send a signal to exactly this process; False when it is gone."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks after boot; None when there is no such process."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def owner(pid: int) -> int | None:
    """The real user id; None when there is no such process."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Uid:")), None)
    except OSError:
        return None


def parent(pid: int) -> int | None:
    """The parent's PID; None when there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def everyone() -> list[int]:
    """PIDs of all processes that can be seen."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def session(pid: int) -> int | None:
    """The session it belongs to; None when there is no such process."""
    fields = _stat(pid)
    return int(fields[3]) if fields else None


def has_mark(pid: int, mark: str) -> bool:
    """Whether it was executed with `NAME=value` in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark.encode() in file.read().split(b"\0")
    except OSError:
        return False


def open_file(pid: int, fd: int) -> str:
    """What the kernel calls the file behind a descriptor, such as `pipe:[4711]`; empty when there is none."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return ""


def has_open(pid: int, file: str) -> bool:
    """Whether it has a file of this name of the kernel's open."""
    try:
        return any(open_file(pid, int(fd)) == file for fd in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """PIDs of the children of all threads of this process."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(int(child) for child in file.read().split())
    except OSError:
        pass
    return found


def name(pid: int) -> str:
    """What the process calls itself, 15 bytes at most; empty when there is no such process."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def command_line(pid: int) -> list[str]:
    """The words it was executed with; empty when there is no such process, or when it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            return file.read().split("\0")[:-1]
    except OSError:
        return []


def rss_bytes(pid: int) -> int:
    """Resident memory; 0 when there is no such process."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def is_stopped(pid: int) -> bool:
    """Whether it was stopped by a signal, and so does nothing at all."""
    return _stat(pid)[:1] == ["T"]


@functools.cache
def boot_id() -> str:
    """Changes with every boot of the machine: PIDs and start times of another boot mean nothing."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
