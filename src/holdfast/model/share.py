"""Who fills a batch: how many of the waiting messages one idle thread takes."""

from __future__ import annotations


def share(waiting: int, idle: int, batch: int, one_writer: bool) -> int:
    """How many to take, at most `batch`: a fair share among the idle threads, or all where the store has one writer.

    With one writer a second thread could only wait for the first one's commit, so one large batch is best; with a server, threads
    that commit side by side beat one large batch. `idle` counts the thread that asks.
    """
    if one_writer or idle <= 1:
        return min(batch, waiting)
    return min(batch, -(-waiting // idle))
