"""Where log lines end up: a file for each date, or a stream that is there already. A place that cannot be written stops nothing.

What cannot be written is kept, up to ROOM bytes, and tried again; beyond that whole lines are lost, counted, and the count
is written at the place where they are missing.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress

ROOM = 1 << 20
MODE = 0o640
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
_KEEP_OPEN = 60.0
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

TellLoss = Callable[[int, str], bytes]


class LogFile:
    """A file known by its path; opened when there is something to write, again when it was removed or could not be written."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def write(self, data: bytearray) -> None:
        """Take from `data` what was written: all of it, unless OSError is raised."""
        try:
            fd = self._opened()
            while data:
                del data[: os.write(fd, data)]
        except OSError:
            self.close()
            raise

    def reopen(self) -> None:
        """Open by name again; where that cannot be done, go on with the file that is open."""
        with suppress(OSError):
            fresh = self._open()
            self.close()
            self._fd = fresh

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def open(self) -> None:
        """Prove that it can be written; raises OSError."""
        self._opened()

    def _opened(self) -> int:
        # A renamed file still has its name: whoever renamed it says when to reopen. A removed one would swallow lines.
        if self._fd >= 0 and not os.fstat(self._fd).st_nlink:
            self.close()
        if self._fd < 0:
            self._fd = self._open()
        return self._fd

    def _open(self) -> int:
        try:
            return os.open(self.path, _FLAGS, MODE)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            return os.open(self.path, _FLAGS, MODE)


class Stream:
    """An inherited descriptor: a terminal, a pipe, a file. Never waits for its reader, and leaves its flags alone, which others share."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._step = ROOM if stat.S_ISREG(os.fstat(fd).st_mode) else select.PIPE_BUF
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self.waits = False

    def fileno(self) -> int:
        return self._fd

    def write(self, data: bytearray) -> None:
        """Take from `data` what its reader has room for."""
        while data and self._poll.poll(0):
            del data[: os.write(self._fd, data[: self._step])]
        self.waits = bool(data)

    def reopen(self) -> None:
        """It has no name."""

    def close(self) -> None:
        """It is not ours."""

    def open(self) -> None:
        """It is."""


class Outlet:
    """One place, what waits for it, and what it has lost."""

    def __init__(self, place: LogFile | Stream, tell_loss: TellLoss) -> None:
        self.place = place
        self.pending = bytearray()
        self.reason = ""  # why it is not written
        self.retry_at: float | None = None
        self.used_at = 0.0
        self._tell_loss = tell_loss
        self._pause = FIRST_PAUSE
        self._full = False
        self._unwritten = 0  # lines lost, which the place itself does not say yet
        self._unsaid = 0  # lines lost, which `take_lost` has not told yet

    def put(self, data: bytes, waiting: int, now: float) -> None:
        """Take whole lines, to be written by the next `flush`; or lose them, when `waiting` bytes wait already here and elsewhere."""
        self.used_at = now
        self._full = waiting > (ROOM // 2 if self._full else ROOM)
        if self._full:
            lines = data.count(b"\n")
            self._unwritten += lines
            self._unsaid += lines
            self.reason = self.reason or "its reader is too slow"
            return
        self._confess()
        self.pending += data

    def flush(self, now: float) -> None:
        """Write what waits, unless a pause after a failure is not over."""
        if self.retry_at is not None and now < self.retry_at:
            return
        try:
            self.place.write(self.pending)
            if not self.pending and self._unwritten:
                self._confess()
                self.place.write(self.pending)
        except OSError as error:
            self.fail(error, now)
        else:
            self._recover()

    def fail(self, error: OSError, now: float) -> None:
        """Pause, longer each time."""
        self.reason = error.strerror or str(error)
        self.retry_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def take_lost(self) -> int:
        """How many lines were lost since this was asked last."""
        lines, self._unsaid = self._unsaid, 0
        return lines

    def abandon(self) -> None:
        """There will be no other try."""
        self._unsaid += self.pending.count(b"\n")
        self.pending.clear()

    def _confess(self) -> None:
        if self._unwritten:
            self.pending += self._tell_loss(self._unwritten, self.reason)
            self._unwritten = 0

    def _recover(self) -> None:
        self.retry_at = None
        self._pause = FIRST_PAUSE
        if not self.pending:
            self.reason = ""


class LogFiles:
    """All places that are written to just now. `pattern` is a path that may hold {date}."""

    def __init__(self, pattern: str, stream: int, tell_loss: TellLoss) -> None:
        self._pattern = pattern
        self._stream = stream
        self._tell_loss = tell_loss
        self._outlets: dict[str, Outlet] = {}

    def open(self, date: str, now: float) -> None:
        """Open today's file before there is a line; a failure shows in `reason`."""
        outlet = self._outlet(date)
        try:
            outlet.place.open()
        except OSError as error:
            outlet.fail(error, now)

    def put(self, date: str, data: bytes, now: float) -> None:
        """Take whole lines of one date."""
        waiting = sum(len(outlet.pending) for outlet in self._outlets.values())
        self._outlet(date).put(data, waiting, now)

    def flush(self, now: float) -> None:
        """One write for each place that has something to write; closes the files of other days that nobody has written for a minute."""
        for outlet in self._outlets.values():
            if outlet.pending or outlet.retry_at is not None:
                outlet.flush(now)
        *older, _newest = sorted(self._outlets)
        for path in older:
            outlet = self._outlets[path]
            if not outlet.pending and now - outlet.used_at > _KEEP_OPEN:
                outlet.place.close()
                del self._outlets[path]

    def reopen(self, now: float) -> None:
        """Open every file by its name again; those that fail are tried at once."""
        for outlet in self._outlets.values():
            outlet.place.reopen()
            outlet.retry_at = None if outlet.retry_at is None else now

    def retry_at(self) -> float | None:
        """When `flush` is due though nothing came."""
        return min((outlet.retry_at for outlet in self._outlets.values() if outlet.retry_at is not None), default=None)

    def blocked(self) -> list[int]:
        """Descriptors whose readers have no room."""
        return [o.place.fileno() for o in self._outlets.values() if isinstance(o.place, Stream) and o.place.waits and o.retry_at is None]

    def reason(self) -> str:
        """Why something is not written; empty when everything is."""
        return next((outlet.reason for outlet in self._outlets.values() if outlet.reason), "")

    def take_lost(self) -> int:
        """How many lines were lost since this was asked last."""
        return sum(outlet.take_lost() for outlet in self._outlets.values())

    def finish(self, now: float) -> None:
        """Write what can be written, give up the rest."""
        for outlet in self._outlets.values():
            outlet.retry_at = None
            outlet.flush(now)
            outlet.abandon()
            outlet.place.close()

    def _outlet(self, date: str) -> Outlet:
        path = self._pattern.replace("{date}", date)
        if path not in self._outlets:
            place = Stream(self._stream) if path == "-" else LogFile(path)
            self._outlets[path] = Outlet(place, self._tell_loss)
        return self._outlets[path]
