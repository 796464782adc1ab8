"""Events: one line each into the process's log pipe, which is its standard error.

A line is `\\x1e` + a JSON object + `\\n`, handed over in one write, so that lines of several threads never mix. Logging never
raises and never waits: what finds no room in the pipe is dropped and counted, and the next line that gets through says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Mapping
from typing import Any

from holdfast.model.loglines import LEVELS

LIMIT = 32768
_ATOMIC = select.PIPE_BUF  # a pipe that polls writable takes this much whole and at once
_MARK = " […] "
_INT = struct.Struct("i")


def configure(job: str = "", worker: str = "", level: str = "info", fd: int = 2) -> None:
    """Say whose events these are from now on, from which level they are written, and where to."""
    _writer.job, _writer.worker, _writer.fd = job, worker, fd
    _writer.least = _rank(level)


def log(event: str, text: str = "", level: str = "info", **fields: Any) -> None:
    """Write one event; never raises, never waits. `job` and `worker` among the fields stand in for the configured ones."""
    _writer.log(event, text, level, fields)


class _Writer:
    """What `configure` and `log` share. The lock is reentrant, since a signal handler may log while its own thread does."""

    def __init__(self) -> None:
        self.job = self.worker = ""
        self.fd = 2
        self.least = LEVELS.index("info")
        self.after_fork()

    def after_fork(self) -> None:
        """A forked child must not wait for a thread it does not have, nor report its parent's losses."""
        self._lock = threading.RLock()
        self._dropped = 0
        self._torn = False

    def log(self, event: str, text: str, level: str, fields: Mapping[str, Any]) -> None:
        if _rank(level) < self.least:
            return
        line = {"t": time.time(), "level": level, "event": event, "job": self.job, "worker": self.worker, "text": text, **fields}
        with self._lock:
            if self._dropped:
                line["dropped"] = self._dropped
            if self._put(line):
                self._dropped = 0
            else:
                self._dropped += 1

    def _put(self, line: dict[str, Any]) -> bool:
        try:
            room = _room(self.fd)
            if not room:
                return False
            data = (b"\n\x1e" if self._torn else b"\x1e") + _encode(line, min(room, LIMIT) - 3) + b"\n"
            written = os.write(self.fd, data)
        except Exception:  # whatever a field's __str__ or a closed descriptor raises: logging never breaks the work
            return False
        self._torn = written < len(data)
        return not self._torn


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("info")


def _room(fd: int) -> int:
    """How many bytes can be written without waiting: 0, or at least one atomic write.

    A pipe holds pages, not bytes. Neighbouring pages together hold more than one page of bytes (the kernel would have
    merged them otherwise), so twice the bytes that wait is an upper bound of the space they take.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if any(state != select.POLLOUT for _, state in poll.poll(0) or [(fd, 0)]):
        return 0
    try:
        size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:  # a file, a terminal
        return LIMIT
    waiting: int = _INT.unpack(fcntl.ioctl(fd, termios.FIONREAD, bytes(_INT.size)))[0]
    return max(_ATOMIC, size - 2 * waiting - 2 * _ATOMIC)


def _encode(line: Mapping[str, Any], limit: int) -> bytes:
    """The line as JSON of at most `limit` bytes; where it is longer, its long fields lose their middle."""
    data = _json(line)
    keep = limit
    while len(data) > limit and keep > 16:
        keep //= 2
        data = _json({name: _cut(value, keep) for name, value in line.items()})
    return data if len(data) <= limit else _json({"t": line["t"], "level": "error", "event": "log.unfit"})


def _json(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, default=str, separators=(",", ":")).encode()


def _cut(value: Any, keep: int) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= keep else text[: keep // 2] + _MARK + text[-(keep // 2) :]


_writer = _Writer()
os.register_at_fork(after_in_child=_writer.after_fork)
