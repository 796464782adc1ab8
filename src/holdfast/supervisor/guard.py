"""The guard: the supervisor's parent, which starts it again when it has ended and nobody asked for that.

    process.py guard --boot FD [--report FD]

It waits for signals and for the supervisor's verdict, and asks the supervisor something now and then. What a dead supervisor has left
comes to the guard, a subreaper, and is ended before the next one starts. Run as root it opens two files, lock and log, with the service
user's rights.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from holdfast.linux import process
from holdfast.linux.channel import from_memfd, to_memfd
from holdfast.linux.flags import flags
from holdfast.linux.process import Exit
from holdfast.model.recovery import Row, starts_again
from holdfast.supervisor.guard_pulse import Pulse
from holdfast.supervisor.guard_records import Diary, Mark
from holdfast.supervisor.offspring import ENTRY, STANDARD_LIBRARY_ONLY
from holdfast.supervisor.report import Report

ENDING = (signal.SIGTERM, signal.SIGINT)
FORWARDED = (*ENDING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
_LAST_LINES = 1.0  # seconds in which a logger without a supervisor writes the rest
_GONE = 5.0  # seconds after which a process that cannot be killed is waited for no more


def main(arguments: Sequence[str]) -> int:
    """Guard until the supervisor was stopped; its last exit status, or 128 and the signal that killed it."""
    given = flags(arguments)
    report = int(given["report"]) if "report" in given else None
    if report is not None:
        os.set_inheritable(report, False)
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")
    document = json.loads(from_memfd(int(given["boot"])))
    os.umask(int(document["guarding"]["umask"], 8))
    return Guard(document, report).run()


class Guard:
    """One supervisor after the other. `_pid` is 0 between two."""

    def __init__(self, document: dict[str, Any], report_fd: int | None) -> None:
        self._document = {**document, "guard": os.getpid()}
        self._report = Report(report_fd)
        self._has_report = report_fd is not None
        self._diary = Diary.of(document["guarding"])
        self._mark = Mark.of(document["guarding"])
        self._row = Row()
        self._pid, self._pidfd = 0, -1
        self._verdicts, self._buffer = -1, b""
        self._was_ready = self._asked = False
        self._ready_at: float | None = None
        self._next_start: float | None = None
        self._ended_at = 0.0
        self._cause = ""
        self._error = ""  # what the last supervisor said of its own failure
        self._busy = False
        self._status: int | None = None
        self._waker = -1
        self._pulse: Pulse | None = None

    def run(self) -> int:
        """Until it is stopped, or the first start has failed."""
        self._waker = _take_signals()
        self._start()
        while self._status is None:
            self._turn()
        self._end_orphans()
        self._mark.close()
        return self._status

    def _turn(self) -> None:
        """Wait for whatever comes next; signals are looked at before exits, so that a stop is known when its consequence is seen."""
        poll = select.poll()
        for fd in (self._waker, self._verdicts, self._pulse.fileno() if self._pulse is not None else -1):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        times = [at for at in (self._next_start, self._pulse.next_look if self._pulse is not None else None) if at is not None]
        poll.poll(max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None)
        self._look()
        self._feel()
        if self._next_start is not None and time.monotonic() >= self._next_start:
            self._end_orphans()
            if self._status is None:
                self._start()

    def _look(self) -> None:
        for number in _arrived(self._waker):
            self._signalled(number)
        self._hear()
        self._reap()

    def _feel(self) -> None:
        """A supervisor that answers nothing for long is ended, and then it is one that has ended. Not when it is to end anyway."""
        if self._pulse is None or self._asked:
            return
        self._pulse.hear()
        if time.monotonic() >= self._pulse.next_look and self._pulse.look(time.monotonic()):
            self._error = f"it answered nothing for {self._document['guarding']['guard_patience']:g} s"
            self._diary.write("guard.hung", f"the supervisor lives, but {self._error}: ending it", "error", {"pid": self._pid})
            self._calm()
            process.pidfd_kill(self._pidfd, signal.SIGKILL)

    def _calm(self) -> None:
        """Nobody is there to be asked."""
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None

    def _signalled(self, number: int) -> None:
        if number not in FORWARDED:
            return
        self._asked = self._asked or number in ENDING
        if self._asked:
            self._calm()
        if self._pid:
            process.pidfd_kill(self._pidfd, number)
        elif number in ENDING:
            self._status = 0
        elif number == signal.SIGHUP:  # there is nothing to reload; somebody has mended something
            self._next_start = time.monotonic()

    # --- one supervisor

    def _start(self) -> None:
        """Execute a supervisor, without a fork of ours in between; its signals wait until it has its handlers."""
        self._next_start = None
        self._verdicts, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        boot = to_memfd("supervisor-boot", json.dumps(self._document).encode())
        for fd in (boot, write):
            os.set_inheritable(fd, True)
        words = [sys.executable, *STANDARD_LIBRARY_ONLY, ENTRY, "supervisor", "--boot", str(boot), "--report", str(write)]
        try:
            self._pid = os.posix_spawn(words[0], words, self._document["environ"], setsid=True, setsigmask=signal.valid_signals())
            self._pidfd = os.pidfd_open(self._pid)
        except OSError as error:  # no memory, no room for a process, no interpreter: another try may find them
            self._error = f"it could not be executed: {error.strerror}"
            self._ended(Exit(0, status=70))
        finally:
            os.close(boot)
            os.close(write)

    def _hear(self) -> None:
        """Lines of the supervisor's report."""
        while self._verdicts >= 0:
            try:
                data = os.read(self._verdicts, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                os.close(self._verdicts)
                self._verdicts = -1
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                self._told(json.loads(line))

    def _told(self, line: dict[str, Any]) -> None:
        if "busy" in line:
            self._busy = True
        elif line.get("exit") == 0:
            self._ready()
        elif "exit" in line:
            self._error = str(line.get("error", ""))
        if not self._was_ready or line.get("exit") == 0:
            self._relay(line)

    def _ready(self) -> None:
        self._ready_at = time.monotonic()
        self._mark.take()
        if self._was_ready:
            self._diary.write("guard.recovered", f"started again after: {self._cause}", "warning", self._facts())
        self._mark.note("")
        if self._document["guarding"].get("guard_patience"):
            self._pulse = Pulse(self._document["guarding"], self._ready_at)

    def _facts(self) -> dict[str, Any]:
        assert self._ready_at is not None
        return {"pid": self._pid, "away_s": round(self._ready_at - self._ended_at, 3), "in_a_row": self._row.ends}

    def _relay(self, line: dict[str, Any]) -> None:
        """To the command that waits for the first verdict."""
        if "busy" in line:
            self._report.busy(int(line["busy"] or 0))
        elif "exit" not in line:
            self._report.progress(str(line.get("progress", "")))
        elif not self._was_ready:
            self._was_ready = line["exit"] == 0
            self._report.verdict(line)

    # --- ends

    def _reap(self) -> None:
        """The supervisor's end, and those of the orphans that it has left to us."""
        while (pid := process.peek()) is not None:
            how = process.reap(pid)
            if pid == self._pid and how is not None:
                self._hear()
                self._ended(how)

    def _ended(self, how: Exit) -> None:
        self._pid, self._buffer = 0, b""
        self._calm()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        again = starts_again(status=how.status, killed=bool(how.signal), asked=self._asked, was_ready=self._was_ready)
        if again and not self._busy:
            self._plan(how)
            return
        if self._busy and self._was_ready:
            self._diary.write("guard.leaves", "another supervisor has been started meanwhile", "warning")
        elif not self._was_ready and how.signal:
            self._report.verdict({"exit": 1, "error": f"the supervisor died ({how}) before it was ready"})
        self._status = 128 + how.signal if how.signal else 2 if self._busy and not self._has_report else how.status

    def _plan(self, how: Exit) -> None:
        """The next start, and why it must be."""
        now = time.monotonic()
        self._row = self._row.after(0.0 if self._ready_at is None else now - self._ready_at)
        pause = self._row.pause(random.random())
        if self._ready_at is not None:
            self._ended_at = now
        self._cause = f"{how}: {self._error}" if self._error else str(how)
        self._ready_at, self._error = None, ""
        self._next_start = now + pause
        text = f"the supervisor has ended ({self._cause})" + (f"; next start in {pause:.1f} s" if pause else "; starting it again")
        self._diary.write("guard.noticed", text, "error", {"in_a_row": self._row.ends, "pause_s": round(pause, 3)})
        self._mark.note(text)

    def _end_orphans(self) -> None:
        """End what the supervisor has left, its logger last. They are our children: nobody else can have their PIDs."""
        began = time.monotonic()
        while (left := process.children(os.getpid())) and (waited := time.monotonic() - began) < _GONE:
            loggers = [pid for pid in left if "logger" in process.command_line(pid)[4:5]] if waited < _LAST_LINES else []
            for pid in set(left) - set(loggers):
                os.kill(pid, signal.SIGKILL)
            select.select([self._waker], [], [], (_LAST_LINES if loggers else _GONE) - waited)
            self._look()


def _take_signals() -> int:
    """From here on signals are bytes of a pipe; returns its end."""
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (*FORWARDED, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    return wake


def _arrived(wake: int) -> bytes:
    with contextlib.suppress(BlockingIOError):
        return os.read(wake, 4096)
    return b""
