"""Who fills a batch: when an idle thread joins those that work, how many messages it takes, how many one transaction claims."""

from __future__ import annotations

_LONGEST_WAIT = 0.02  # seconds that a message waits for company
_MOST_WORTH = 64
_FORGETS = 0.98  # of what a slow message took, after each transaction


class Pace:
    """What a transaction costs, as those of this process have shown. Seconds; learned by every thread, which may lose a lesson.

    An idle thread joins those that work when what waits is worth a transaction of its own: when handling it takes as long as
    beginning, claiming, recording and committing. A message does not wait longer for company than that, and not at all while nobody
    works or where handling takes long. Otherwise quick messages would come in small transactions, which cost more than they.
    """

    def __init__(self) -> None:
        self._each = float("inf")  # handling one message; slow ones are not forgotten soon
        self._around = 0.0  # the rest of a transaction

    def learn(self, messages: int, worked: float, around: float) -> None:
        """A transaction handled so many (at least one)."""
        each = worked / messages
        self._each = each if self._each == float("inf") else max(each, _FORGETS * self._each)
        self._around = around if not self._around else self._around + 0.1 * (around - self._around)

    @property
    def worth(self) -> int:
        """How many messages are worth a transaction."""
        return max(1, min(_MOST_WORTH, int(self._around / self._each))) if self._each else _MOST_WORTH

    def wait(self, waiting: int, busy: int, waited: float) -> float:
        """How long an idle thread still leaves these to the `busy` ones; the first of them has `waited`."""
        if busy <= 0 or waiting >= self.worth:
            return 0.0
        return max(0.0, min(_LONGEST_WAIT, self._around) - waited)


def fitting(fit: int, most: int, *, size: int, late: int, brisk: bool) -> int:
    """How many messages the next transaction claims, after one of `size` of which `late` were not begun before it was old.

    Claims that are taken back cost twice. `brisk`: it was done in less than half of the time that it may take.
    """
    if late:
        return max(1, size - late)
    return min(most, 2 * fit) if brisk and size >= fit else fit


def share(waiting: int, idle: int, batch: int, one_writer: bool, worth: int = 1) -> int:
    """How many to take, at most `batch`: a fair share among the `idle` threads (with the one that asks), but what is worth a transaction.

    Where the store has one writer, all: a second thread could only wait for the first one's commit.
    """
    if one_writer or idle <= 1:
        return min(batch, waiting)
    return min(batch, waiting, max(worth, -(-waiting // idle)))
