"""In which order the outbox's messages are published: each key's in order and one at a time, different keys side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

Lane = tuple[str, str]  # target and key
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0


class Sendable(Protocol):
    """What is published."""

    @property
    def id(self) -> int: ...
    @property
    def target(self) -> str: ...
    @property
    def key(self) -> str: ...


S = TypeVar("S", bound=Sendable)


class Round(Generic[S]):
    """One round: hand out `start()`, then after each end what `ended` gives. What has no key is in no order."""

    def __init__(self, messages: Iterable[S]) -> None:
        self._lanes: dict[Lane, deque[S]] = {}
        self._first: list[S] = []
        for message in messages:
            if not message.key:
                self._first.append(message)
            elif (lane := (message.target, message.key)) in self._lanes:
                self._lanes[lane].append(message)
            else:
                self._lanes[lane] = deque()
                self._first.append(message)
        self.open = len(self._first)  # on their way
        self.taken: list[int] = []

    def start(self) -> list[S]:
        """Those that wait for nobody."""
        return self._first

    def ended(self, message: S, *, taken: bool) -> S | None:
        """One was confirmed, or not; the next of its key, if it may leave now."""
        self.open -= 1
        if not taken:
            return None
        self.taken.append(message.id)
        lane = self._lanes.get((message.target, message.key)) if message.key else None
        if not lane:
            return None
        self.open += 1
        return lane.popleft()


class Pauses:
    """Lanes whose last message was not taken: each waits, longer each time, and blocks nobody else. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._until: dict[Lane, tuple[float, float]] = {}

    def failed(self, lane: Lane, now: float) -> float:
        """Not taken again; seconds until the next try."""
        pause = min(LONGEST_PAUSE, 2 * self._until[lane][1]) if lane in self._until else FIRST_PAUSE
        self._until[lane] = (now + pause, pause)
        return pause

    def taken(self, lane: Lane) -> None:
        """It goes on."""
        self._until.pop(lane, None)

    def blocked(self, now: float) -> list[Lane]:
        """Those that are not to be tried yet."""
        return [lane for lane, (until, _pause) in self._until.items() if now < until]

    def next_try(self, now: float) -> float | None:
        """When the first of the blocked may be tried again."""
        return min((until for until, _pause in self._until.values() if until > now), default=None)
