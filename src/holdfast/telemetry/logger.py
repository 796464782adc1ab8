"""The logger: reads every process's log pipe, writes one line an event into the file of the line's own date.

It always reads, whatever becomes of the files: a process that logs or prints never waits for a disk. It ends when nobody is
left who could write, not on a signal; so that the last words of the others are kept.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.linux.channel import Channel, Packet, from_memfd
from holdfast.linux.flags import flags
from holdfast.model import loglines
from holdfast.telemetry.logfiles import LogFiles

_READ = 65536
_SAY_EVERY = 1.0


@dataclass(slots=True)
class Pipe:
    """The read end of one process's log pipe, and whose it is."""

    fd: int
    job: str
    worker: str
    cutter: loglines.Cutter

    def read(self) -> tuple[list[loglines.Piece], bool]:
        """The lines that came, and whether that was the end."""
        try:
            data = os.read(self.fd, _READ)
        except BlockingIOError:  # an old logger of the same pipe was faster
            return [], False
        except OSError:
            data = b""
        return list(self.cutter.feed(data) if data else self.cutter.end()), not data


class Report:
    """What the supervisor is told of losses: at most one packet a second, and one when they have ended."""

    def __init__(self) -> None:
        self._lines = 0
        self._reason = ""
        self._told = False
        self._next = 0.0
        self.due_at: float | None = None

    def packets(self, lines: int, reason: str, now: float, *, last: bool = False) -> list[Packet]:
        """Given the lines lost since the last call, and why lines cannot be written now (empty: they can)."""
        self._lines += lines
        self._reason = reason or self._reason
        result: list[Packet] = []
        news = bool(self._lines or (reason and not self._told))
        if news and (last or now >= self._next):
            result.append({"say": "lost", "lines": self._lines, "reason": self._reason})
            self._lines, self._told, self._next, news = 0, True, now + _SAY_EVERY, False
        if self._told and not reason and not news:
            result.append({"say": "writing"})
            self._told = False
        self.due_at = self._next if news else None
        return result


class Logger:
    """The loop: one turn reads what is there and writes it, one write a file."""

    def __init__(self, channel: Channel, boot: dict[str, Any]) -> None:
        self._form: str = boot.get("format", "text")
        self._least: str = boot.get("level", "info")
        self._files = LogFiles(boot["path"], int(boot.get("stderr", 2)), self._loss)
        self._channel: Channel | None = channel
        self._finishing = False
        self._leaving = False
        self._pipes: dict[int, Pipe] = {}
        self._report = Report()

    def run(self) -> None:
        """Serve until no pipe is left and none can come."""
        today = loglines.date(loglines.stamp(time.time()))
        self._files.open(today, time.monotonic())
        self._say({"say": "ready"})
        while (self._pipes or not self._finishing) and not self._may_leave():
            self._tell(time.monotonic())
            self._turn(self._wait())
        self._files.finish(time.monotonic())
        self._tell(time.monotonic(), last=True)

    def _may_leave(self) -> bool:
        """Whether another logger is to go on from here: at the end of a line in each pipe, so that none is torn."""
        if not self._leaving:
            return False
        for fd in [fd for fd, pipe in self._pipes.items() if not pipe.cutter.within_a_line]:
            os.close(self._pipes.pop(fd).fd)
        return not self._pipes

    def _wait(self) -> list[tuple[int, int]]:
        """Sleep until there is something to read, a reader has room again, or a try is due."""
        poll = select.poll()
        for fd in self._pipes:
            poll.register(fd, select.POLLIN)
        for fd in self._files.blocked():
            poll.register(fd, select.POLLOUT)
        if self._channel:
            poll.register(self._channel.fileno(), select.POLLIN)
        due = [moment for moment in (self._files.retry_at(), self._report.due_at) if moment is not None]
        return poll.poll(max(0.0, min(due) - time.monotonic()) * 1000 if due else None)

    def _turn(self, ready: list[tuple[int, int]]) -> None:
        now = time.time()
        batches: dict[str, list[bytes]] = defaultdict(list)
        for fd, _ in ready:
            if self._channel and fd == self._channel.fileno():
                self._listen()
            elif fd in self._pipes:
                self._read(self._pipes[fd], now, batches)
        for date, lines in batches.items():
            self._files.put(date, b"".join(lines), time.monotonic())
        self._files.flush(time.monotonic())

    def _read(self, pipe: Pipe, now: float, batches: dict[str, list[bytes]]) -> None:
        pieces, ended = pipe.read()
        for piece in pieces:
            line = loglines.parse(piece, pipe.job, pipe.worker, now)
            if line.weighs(self._least):
                moment = loglines.stamp(line.at)
                batches[loglines.date(moment)].append(loglines.render(line, moment, self._form))
        if ended:
            os.close(self._pipes.pop(pipe.fd).fd)

    def _listen(self) -> None:
        """Take every packet that waits; without a supervisor no more pipes come."""
        if (channel := self._channel) is None:
            return
        try:
            while received := channel.receive():
                self._obey(*received)
        except EOFError:
            channel.close()
            self._channel = None
            self._finishing = True

    def _obey(self, packet: Packet, fds: list[int]) -> None:
        match packet.get("do"):
            case "pipe" if fds:
                fd = fds.pop(0)
                os.set_blocking(fd, False)
                self._pipes[fd] = Pipe(fd, str(packet.get("job", "")), str(packet.get("worker", "")), loglines.Cutter())
            case "reopen":
                self._files.reopen(time.monotonic())
            case "finish":
                self._finishing = True
            case "leave":
                self._leaving = True
        for fd in fds:
            os.close(fd)

    def _loss(self, lines: int, reason: str) -> bytes:
        """The event that stands where lines are missing."""
        now = time.time()
        line = loglines.Line(now, "error", "log.lost", "", "logger", f"{lines} lines could not be written: {reason}", {"lines": lines})
        return loglines.render(line, loglines.stamp(now), self._form)

    def _tell(self, now: float, *, last: bool = False) -> None:
        for packet in self._report.packets(self._files.take_lost(), self._files.reason(), now, last=last):
            self._say(packet)

    def _say(self, packet: Packet) -> None:
        if self._channel:
            self._channel.send(packet)


def main(arguments: Sequence[str]) -> int:
    """The process `logger`: `--channel FD --boot FD`."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    given = flags(arguments)
    boot = json.loads(from_memfd(int(given["boot"])))
    Logger(Channel.from_fd(int(given["channel"])), boot).run()
    return 0
