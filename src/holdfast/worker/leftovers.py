"""What an import leaves open that a fork would break: threads, sockets, pipes, database files.

A forked process has none of its parent's threads, and shares the parent's connections with all its sisters: two of them on
one connection read each other's answers.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

_SQLITE = b"SQLite format 3\0"
_GRACE_NS = 200_000_000  # a thread that was joined leaves /proc a moment later


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The process's threads by native id, and its descriptors with what they point to."""

    threads: Mapping[int, str]
    fds: Mapping[int, str]


def snapshot() -> Snapshot:
    """What there is now."""
    return Snapshot(_threads(), _fds())


def leftovers(before: Snapshot) -> list[str]:
    """What has come since and cannot be forked, each in words: "thread 'poller'", "a connection to 10.0.0.1:5432"."""
    until = time.monotonic_ns() + _GRACE_NS
    while (threads := _new_threads(before)) and time.monotonic_ns() < until:
        time.sleep(0.005)
    fds = [fd for fd, link in _fds().items() if before.fds.get(fd) != link]
    return [*threads, *filter(None, (_described(fd) for fd in fds))]


def _new_threads(before: Snapshot) -> list[str]:
    return [f"thread {name!r}" for tid, name in _threads().items() if tid not in before.threads]


def _threads() -> dict[int, str]:
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    result = {}
    for entry in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{entry}/comm") as comm:
            result[int(entry)] = known.get(int(entry)) or comm.read().strip()
    return result


def _fds() -> dict[int, str]:
    result = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            result[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
    return result


def _described(fd: int) -> str:
    """In words, empty for what may be shared by a fork (files that are only read, devices, memory)."""
    try:
        link = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""  # the descriptor of the listing itself
    kind = link.partition(":")[0]
    if kind == "socket":
        return _socket_described(fd)
    if kind == "pipe" or link in ("anon_inode:[eventpoll]", "anon_inode:[io_uring]"):
        return f"an open {link.removeprefix('anon_inode:').strip('[]').partition(':')[0]} (descriptor {fd})"
    return f"an open SQLite database {link}" if _is_sqlite(fd) else ""


def _is_sqlite(fd: int) -> bool:
    try:
        return os.pread(fd, len(_SQLITE), 0) == _SQLITE
    except OSError:
        return False


def _socket_described(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as sock:
        with contextlib.suppress(OSError):
            return f"a connection to {_address(sock.getpeername())} (descriptor {fd})"
        with contextlib.suppress(OSError):
            return f"a socket on {_address(sock.getsockname())} (descriptor {fd})"
    return f"a socket (descriptor {fd})"


def _address(address: object) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    return str(address) or "a UNIX socket"
