"""In which order the outbox's messages are published, and what waits when one is not taken.

Each key's messages leave in order and one at a time, different keys side by side, and each target by itself: one that is slow, or away,
holds up nobody else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
LONGEST_ABSENCE = 5.0  # seconds between two looks whether a broker is there again
_JITTER = 0.25
MOST_LANES = 4000  # that pause by themselves; the database is asked for what is in none of them


class Blame(Enum):
    """What is to blame that a message was not taken."""

    ROUTE = auto()  # no queue takes it, or a queue is full: so it is for all that go the same way
    MESSAGE = auto()  # the message itself
    UNKNOWN = auto()  # one of those that were on their way
    TARGET = auto()  # nothing can be sent there
    AWAY = auto()  # the broker, which may be there again at any moment


class Sendable(Protocol):
    """What is published."""

    @property
    def id(self) -> int: ...
    @property
    def target(self) -> str: ...
    @property
    def key(self) -> str: ...


class Head(Sendable, Protocol):
    """What is known of a message before its body is fetched."""

    @property
    def size(self) -> int: ...


H = TypeVar("H", bound=Head)
S = TypeVar("S", bound=Sendable)


class Round(Generic[S]):
    """One round for one target: hand out `start()`, then after each end what `ended` gives. What has no key is in no order."""

    def __init__(self, messages: Iterable[S]) -> None:
        self._lanes: dict[str, deque[S]] = {}
        self._first: list[S] = []
        for message in messages:
            if not message.key:
                self._first.append(message)
            elif message.key in self._lanes:
                self._lanes[message.key].append(message)
            else:
                self._lanes[message.key] = deque()
                self._first.append(message)
        self.open = len(self._first)  # on their way
        self.closing = False  # nothing more is to follow
        self._taken: list[int] = []

    def start(self) -> list[S]:
        """Those that wait for nobody."""
        return self._first

    def ended(self, message: S, *, taken: bool) -> S | None:
        """One was confirmed, or not; the next of its key, if it may leave now."""
        self.open -= 1
        if not taken:
            return None
        self._taken.append(message.id)
        lane = self._lanes.get(message.key)
        if not lane or self.closing:
            return None
        self.open += 1
        return lane.popleft()

    def collect(self) -> list[int]:
        """Those that were taken since the last call."""
        taken, self._taken = self._taken, []
        return taken


Lane = str | int | None
"""Of a target: a key, the number of a message that has none, or None: all that goes there."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """What is not to be tried just now."""

    targets: tuple[str, ...] = ()
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ids: tuple[int, ...] = ()

    def and_targets(self, more: Iterable[str]) -> Blocked:
        """These targets as well."""
        return Blocked((*self.targets, *more), self.keys, self.ids)


@dataclass(slots=True)
class _Pause:
    """Until when, and how long it is."""

    until: float
    seconds: float


class Pauses:
    """What was not taken waits, longer each time, and blocks nobody else. Times are monotonic seconds.

    A key waits as a whole, since it has an order; a message without one waits alone. A queue that does not take one message takes none,
    so all of it waits (`whole`), and so does a target where very much is refused. `draw` gives from 0 to 1: by how much a pause
    is shortened, so that two that spoil each other's channel do not meet for ever.
    """

    def __init__(self, draw: Callable[[], float] = lambda: 0.0) -> None:
        self._targets: dict[str, dict[Lane, _Pause]] = {}
        self._draw = draw

    def failed(self, message: Sendable, blame: Blame, now: float, *, whole: bool = False) -> float | None:
        """Not taken; seconds until the next try, None when what it belongs to waits already."""
        pauses = self._targets.setdefault(message.target, {})
        lane: Lane = message.key or message.id
        crowded = lane not in pauses and sum(map(len, self._targets.values())) >= MOST_LANES
        if blame in (Blame.UNKNOWN, Blame.TARGET, Blame.AWAY) or (whole and blame is Blame.ROUTE) or crowded:
            lane = None
        pause = pauses.setdefault(lane, _Pause(now, 0.0))
        if now < pause.until:
            return None
        longest = LONGEST_ABSENCE if blame is Blame.AWAY else LONGEST_PAUSE
        pause.seconds = min(longest, 2 * pause.seconds) or FIRST_PAUSE
        wait = pause.seconds * (1 - _JITTER * self._draw())
        pause.until = now + wait
        return wait

    def taken(self, message: Sendable, now: float) -> None:
        """It goes on; a pause that has begun while the message was on its way stays."""
        pauses = self._targets.get(message.target, {})
        for lane in (message.key or message.id, None):
            if lane in pauses and now >= pauses[lane].until:
                del pauses[lane]
        if not pauses:
            self._targets.pop(message.target, None)

    def doubted(self, target: str) -> bool:
        """Whether nothing has been taken there since it failed as a whole: one message is enough, then, to find out."""
        return None in self._targets.get(target, {})

    def blocked(self, now: float) -> Blocked:
        """What is not to be tried yet. What somebody else has sent, or removed, is forgotten after a while."""
        targets: list[str] = []
        keys: dict[str, list[str]] = {}
        ids: list[int] = []
        for target, pauses in list(self._targets.items()):
            for lane in [lane for lane, pause in pauses.items() if now > pause.until + LONGEST_PAUSE]:
                del pauses[lane]
            if not pauses:
                del self._targets[target]
            waits = [lane for lane, pause in pauses.items() if now < pause.until]
            if None in waits:
                targets.append(target)
            else:
                keys[target] = [lane for lane in waits if isinstance(lane, str)]
                ids += [lane for lane in waits if isinstance(lane, int)]
        return Blocked(tuple(targets), {target: some for target, some in keys.items() if some}, tuple(ids))

    def next_try(self, now: float) -> float | None:
        """When the first of the blocked may be tried again."""
        every = (pause.until for pauses in self._targets.values() for pause in pauses.values())
        return min((until for until in every if until > now), default=None)


def chosen(heads: Iterable[H], pauses: Pauses, most_bytes: int) -> dict[str, list[int]]:
    """Which of these are sent now, by target: as much as fits, at least one; where a target is in doubt, its first alone."""
    found: dict[str, list[int]] = {}
    size = 0
    for head in heads:
        if head.target in found and pauses.doubted(head.target):
            continue
        size += head.size
        if found and size > most_bytes:
            break
        found.setdefault(head.target, []).append(head.id)
    return found
