"""Which acknowledgements a channel is owed: as few as possible, and none that waits for a slow message (trap 27)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Acks:
    """The delivery tags of one channel. Every tag is acknowledged, or left to others, exactly once.

    All that is settled up to the oldest that is not goes with one acknowledgement (`multiple`). What is settled behind an
    unsettled one goes by itself and at once: a consumer whose prefetch is full of settled messages would stand still.
    """

    def __init__(self) -> None:
        self._order: deque[int] = deque()  # tags in the order of their coming
        self._open: set[int] = set()

    def delivered(self, tag: int) -> None:
        """This one came."""
        self._order.append(tag)
        self._open.add(tag)

    def left(self, tag: int) -> bool:
        """This one is not ours any more: it goes back. False when it was settled or left before."""
        if tag not in self._open:
            return False
        self._open.discard(tag)
        self._forget()
        return True

    def settled(self, tags: Iterable[int]) -> list[tuple[int, bool]]:
        """The acknowledgements for these, as (tag, multiple). Tags that are not open are void."""
        done = {tag for tag in tags if tag in self._open}
        if not done:
            return []
        self._open -= done
        last = 0
        while self._order and self._order[0] not in self._open:
            tag = self._order.popleft()
            if tag in done:
                last = tag
        together = [(last, True)] if last else []
        return [*together, *((tag, False) for tag in sorted(done) if tag > last)]

    @property
    def open(self) -> int:
        """How many are neither settled nor left."""
        return len(self._open)

    def _forget(self) -> None:
        while self._order and self._order[0] not in self._open:
            self._order.popleft()
