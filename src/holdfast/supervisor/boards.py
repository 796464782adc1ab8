"""Memory that children write and the supervisor reads at any time, and what the dead have counted in it."""

from __future__ import annotations

import fcntl
import mmap
import os
from dataclasses import dataclass, field
from typing import Any

from holdfast.model import board

_F_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


@dataclass(frozen=True, slots=True)
class Memory:
    """A piece of shared memory: its descriptor, to be handed over, and our view of it, which stays when the descriptor is closed."""

    fd: int
    view: memoryview

    @classmethod
    def make(cls, name: str, size: int) -> Memory:
        """A memfd of this size, sealed so that no child can cut it off under us."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _F_SEALS)
        return cls.of(fd)

    @classmethod
    def of(cls, fd: int) -> Memory:
        """That which has this descriptor."""
        return cls(fd, memoryview(mmap.mmap(fd, os.fstat(fd).st_size)))

    def close(self) -> None:
        """Hand it over to nobody any more."""
        os.close(self.fd)


@dataclass(slots=True)
class Totals:
    """What the dead workers of a job have counted; the living ones' boards come on top."""

    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(board.COUNTERS, 0))
    latency: list[int] = field(default_factory=lambda: [0] * board.BUCKETS)
    restarts: dict[int, int] = field(default_factory=dict)  # by slot
    outbox: dict[str, Any] = field(default_factory=dict)  # what waits to be published, as the job's relay has told last; empty: nothing

    def add(self, reading: board.Reading) -> None:
        """Take over what a board says."""
        for name, value in reading.counters.items():
            self.counters[name] += value
        self.latency = [one + other for one, other in zip(self.latency, reading.latency, strict=True)]

    def copy(self) -> Totals:
        """The same, to be added to."""
        return Totals(dict(self.counters), list(self.latency), self.restarts, self.outbox)
