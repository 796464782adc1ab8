"""Which messages of a broker's queue may have killed a worker, and how often each has, alone.

The broker gives what a dead worker held to others, and counts the guilty and the innocent alike. The board of the dead one tells which
it had begun: these are suspects from then on, and each is handled alone in its process. Only a death that a message was alone with
counts (trap 12).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

MOST_SUSPECTS = 10_000


class Suspect(NamedTuple):
    """A message by its mark; how many workers have died while it was alone; how the last one has."""

    mark: int
    deaths: int
    reason: str

    def doom(self, limit: int) -> str:
        """Why it is not to be handled any more; "" while it is."""
        return f"killed its worker {self.deaths} times while it was alone: {self.reason}" if self.deaths >= limit else ""


class Blame:
    """The suspects of one job; the oldest are forgotten when there are too many."""

    def __init__(self, most: int = MOST_SUSPECTS) -> None:
        self._most = most
        self._suspects: OrderedDict[int, Suspect] = OrderedDict()

    def died(self, begun: Iterable[int], reason: str) -> list[Suspect]:
        """A worker died with these begun; what is known of them now."""
        marks = list(dict.fromkeys(begun))
        counts = 1 if len(marks) == 1 else 0
        changed = []
        for mark in marks:
            before = self._suspects.pop(mark, None)
            self._suspects[mark] = suspect = Suspect(mark, (before.deaths if before else 0) + counts, reason)
            changed.append(suspect)
        while len(self._suspects) > self._most:
            self._suspects.popitem(last=False)
        return changed

    def all(self) -> list[Suspect]:
        """For a worker that begins."""
        return list(self._suspects.values())
