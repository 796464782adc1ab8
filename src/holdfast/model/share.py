"""Who fills a batch: how many of the waiting messages one idle thread takes, and how many of them one transaction claims."""

from __future__ import annotations


def share(waiting: int, idle: int, batch: int, one_writer: bool) -> int:
    """How many to take, at most `batch`: a fair share among the idle threads, or all where the store has one writer.

    With one writer a second thread could only wait for the first one's commit, so one large batch is best; with a server, threads
    that commit side by side beat one large batch. `idle` counts the thread that asks.
    """
    if one_writer or idle <= 1:
        return min(batch, waiting)
    return min(batch, -(-waiting // idle))


def fitting(fit: int, most: int, *, size: int, late: int, brisk: bool) -> int:
    """How many messages the next transaction claims, after one of `size` of which `late` were not begun before it was old.

    Claims that are taken back cost twice. `brisk`: it was done in less than half of the time that it may take.
    """
    if late:
        return max(1, size - late)
    return min(most, 2 * fit) if brisk and size >= fit else fit
