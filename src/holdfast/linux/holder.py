"""Who holds a lock file: never believed from what the file says, but seen in the holder's own descriptors."""

from __future__ import annotations

import contextlib
import json
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast.linux.process import pidfd_kill

_MOST_TEXT = 65536


@dataclass(frozen=True, slots=True)
class Holder:
    """A live process that holds the lock just now. `pidfd` names exactly it."""

    pid: int
    pidfd: int
    app: str  # what it has written into the file
    note: str = ""  # what else it says there, for people

    def kill(self, number: int) -> bool:
        """Send a signal; False when it is gone."""
        return pidfd_kill(self.pidfd, number)

    def ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, seconds) * 1000))


@contextmanager
def holder(path: str) -> Iterator[Holder | None]:
    """Who holds the flock on this file; None when nobody does. PermissionError when we may not look.

    The file's text names a PID; that process counts only if one of its descriptors has the lock. So a stale or forged
    file, or a PID that was given to somebody else, leads to nobody. The lock is not touched: a start beside us never fails.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        said, status = _said(fd), os.fstat(fd)
    finally:
        os.close(fd)
    pidfd = _pidfd(said.get("pid"))
    try:
        held = pidfd >= 0 and _holds(said["pid"], status)
        yield Holder(said["pid"], pidfd, str(said.get("app", "")), str(said.get("note", ""))) if held else None
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _said(fd: int) -> dict[str, Any]:
    try:
        data = json.loads(os.pread(fd, _MOST_TEXT, 0) or b"{}")
    except (ValueError, OSError):
        return {}
    return data if isinstance(data, dict) else {}


def _pidfd(pid: object) -> int:
    if isinstance(pid, int) and pid > 0:
        with contextlib.suppress(OSError, OverflowError):
            return os.pidfd_open(pid)
    return -1


def _holds(pid: int, wanted: os.stat_result) -> bool:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        return False
    except PermissionError:
        if _is_among_locks(pid, wanted):
            raise
        return False  # a zombie, or somebody else's process that was given a stale PID
    return any(_is_lock(pid, name, wanted) for name in names)


def _is_among_locks(pid: int, wanted: os.stat_result) -> bool:
    """Whether the kernel's list, which everybody may read, has a lock of this process on a file of this number."""
    with open("/proc/locks") as file:
        rows = [line.split() for line in file]
    return any(row[1] == "FLOCK" and row[-4] == str(pid) and row[-3].rpartition(":")[2] == str(wanted.st_ino) for row in rows)


def _is_lock(pid: int, name: str, wanted: os.stat_result) -> bool:
    try:
        status = os.stat(f"/proc/{pid}/fd/{name}")
        if (status.st_dev, status.st_ino) != (wanted.st_dev, wanted.st_ino):
            return False
        with open(f"/proc/{pid}/fdinfo/{name}") as file:
            return any(line.startswith("lock:") and "FLOCK" in line for line in file)
    except OSError:  # closed meanwhile
        return False
