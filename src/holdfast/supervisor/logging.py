"""Where output goes: one pipe a process, read by the logger. We keep every read end, so that a new logger loses no line."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass

from holdfast.supervisor.family import Child, Family, pipe
from holdfast.supervisor.ground import Ground
from holdfast.supervisor.offspring import Launch
from holdfast.supervisor.state import LogsState
from holdfast.telemetry import events


@dataclass(slots=True)
class LogPipe:
    """A pipe for a child that is about to be. `adopt` ends our part in it: the write end is closed, the read end is the child's."""

    owner: LogPipes
    child_id: str
    job: str
    worker: str
    read: int
    write: int

    def adopt(self) -> None:
        os.close(self.write)
        child = self.owner.family.members.get(self.child_id)
        if child is None:
            os.close(self.read)
            return
        child.log = self.read
        child.facts["log"] = {"do": "pipe", "id": self.child_id, "job": self.job, "worker": self.worker}
        self.owner.tell(child)


class LogPipes:
    """The logger and what it reads, our own lines included."""

    def __init__(self, family: Family, ground: Ground) -> None:
        self.family = family
        self.ground = ground
        self.ready = False
        self.lost = 0
        self._starts = 0
        self._own = -1

    def begin(self) -> None:
        """Start a logger and give it all that there is to read."""
        options = self.ground.options
        boot = {"path": options.log, "format": options.log_format, "level": options.log_level, "stderr": 2}
        launch = self.ground.launch("logger", boot, "/", log_fd=self.ground.terminal)
        self._starts += 1
        logger = self.family.execute(f"logger.{self._starts}", launch, time.monotonic())
        if self._own < 0:
            self._own, write = pipe()
            os.dup2(write, 1)
            os.dup2(write, 2)
            os.close(write)
            events.configure(worker="supervisor", level=options.log_level)
        logger.channel.send({"do": "pipe", "id": "supervisor", "job": "", "worker": "supervisor"}, [self._own])
        for child in self.family.members.values():
            self.tell(child)

    def begin_anew(self) -> None:
        """The log is written otherwise from here on: the old logger writes what it has read, and leaves; a new one follows."""
        for logger in self.family.of("logger"):
            logger.channel.send({"do": "leave"})
        events.configure(worker="supervisor", level=self.ground.options.log_level)

    def pipe(self, child_id: str, job: str, worker: str) -> LogPipe:
        """A log pipe for a child of this id."""
        return LogPipe(self, child_id, job, worker, *pipe())

    def tell(self, child: Child) -> None:
        """Let the logger read this child's output."""
        logger = self.family.one("logger")
        if logger is not None and child.log >= 0:
            logger.channel.send(child.facts["log"], [child.log])

    def execute(self, child_id: str, launch: Launch) -> Child:
        """Start a process of ours with a log pipe."""
        log = self.pipe(child_id, "", launch.kind)
        try:
            return self.family.execute(child_id, dataclasses.replace(launch, log_fd=log.write), time.monotonic())
        finally:
            log.adopt()

    def reopen(self) -> None:
        """Open the log files again by their names, for those who rotate by renaming."""
        for logger in self.family.of("logger"):
            logger.channel.send({"do": "reopen"})

    def state(self) -> LogsState:
        """For the next program. The write end of our own pipe is standard output and error, which it has anyway."""
        return LogsState(self.ready, self.lost, self._starts, self._own)

    def restore(self, state: LogsState) -> None:
        """Go on writing to the same logger."""
        self.ready, self.lost, self._starts, self._own = state.ready, state.lost, state.starts, state.own
        events.configure(worker="supervisor", level=self.ground.options.log_level)

    def finish(self) -> None:
        """No more lines come: our own output goes nowhere from here on, and the logger leaves when it has read the rest."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
        if self._own >= 0:
            os.close(self._own)
            self._own = -1
        for logger in self.family.of("logger"):
            logger.channel.send({"do": "finish"})
