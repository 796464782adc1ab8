"""What is tried next when messages could not be committed together. Pure.

A group of messages is tried in one transaction. When that is undone, `next_groups` says how its messages are tried again, so that

- an innocent message runs at most twice because of others' faults (halves of `handle_batch` excepted: nobody knows the offender);
- weather counts nobody's attempt. Deadlocks and lost connections, which a message may cause, are not believed for ever: after
  MOST_REPLAYS the messages are tried one by one, and there each answers for itself. A store that says itself that it cannot (full,
  read-only) is waited for as long as it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_REPLAYS = 5


class Way(Enum):
    """How the messages of a group are tried."""

    TOGETHER = "together"  # one transaction, nothing between the messages
    CAREFUL = "careful"  # one transaction, a savepoint a message
    ALONE = "alone"  # one message, which answers for what happens
    BURIAL = "burial"  # no handler: dead letters and their inbox rows


class Trouble(Enum):
    """Why a transaction was undone."""

    OFFENDER = "a message failed after its first statement"
    BREACH = "a handler broke the transaction"
    BATCH = "handle_batch failed"
    TRANSIENT = "the store asks for a replay"
    LOST = "the connection to the store is lost"
    AWAY = "the store is away"
    REFUSED = "the store refused the inbox, the record or the commit"


WEATHER = frozenset({Trouble.TRANSIENT, Trouble.LOST, Trouble.AWAY})


@dataclass(slots=True)
class Group(Generic[T]):
    """Messages that are tried in one transaction."""

    items: list[T]
    way: Way = Way.TOGETHER
    replays: int = 0  # uncounted ones
    asked: int = 0  # how often the inbox said of all of these that they are busy


def next_groups(group: Group[T], trouble: Trouble, failed: Sequence[T], culprit: T | None = None, *, batch: bool = False) -> list[Group[T]]:
    """The groups to try instead of this one, in order; `failed` have their failure already and are left out.

    `culprit` is the message whose handler broke the transaction, `batch` whether the job has `handle_batch`. An empty list for a group
    of one means: the message answers for it.
    """
    out = {id(item) for item in failed}
    items = [item for item in group.items if id(item) not in out]
    if trouble in WEATHER:
        return _after_weather(group, items)
    if trouble is Trouble.BREACH:
        return _around(group, out, culprit)
    if trouble is Trouble.OFFENDER:
        return _filled(Group(items, Way.TOGETHER if batch else Way.CAREFUL, group.replays))
    if group.way is Way.ALONE or (len(items) == 1 and group.way is Way.BURIAL):
        return []
    if batch and len(items) > 1 and group.way is not Way.BURIAL:
        middle = len(items) // 2
        return [Group(items[:middle], replays=group.replays), Group(items[middle:], replays=group.replays)]
    return _one_by_one(group, items)


def _after_weather(group: Group[T], items: list[T]) -> list[Group[T]]:
    if group.way is Way.ALONE:
        return []
    if group.replays < MOST_REPLAYS:
        return _filled(Group(items, group.way, group.replays + 1))
    return [] if group.way is Way.BURIAL and len(items) == 1 else _one_by_one(group, items)


def _around(group: Group[T], failed: set[int], culprit: T | None) -> list[Group[T]]:
    """Those before the culprit ran well, those behind it have not run yet. The culprit gets one more run, alone, unless it has failed."""
    place = next(index for index, item in enumerate(group.items) if item is culprit)
    parts = ((group.items[:place], Way.CAREFUL), (group.items[place : place + 1], Way.ALONE), (group.items[place + 1 :], Way.CAREFUL))
    return _filled(*(Group([item for item in items if id(item) not in failed], way, group.replays) for items, way in parts))


def _one_by_one(group: Group[T], items: list[T]) -> list[Group[T]]:
    way = Way.BURIAL if group.way is Way.BURIAL else Way.ALONE
    return [Group([item], way, group.replays) for item in items]


def _filled(*groups: Group[T]) -> list[Group[T]]:
    return [group for group in groups if group.items]
