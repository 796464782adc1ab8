"""A source in memory, for tests: messages are put in, outcomes are taken out."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from holdfast.model.delivery import Delivery
from holdfast.sources.base import Settlement


class MemorySource:
    """Keeps to what `holdfast.sources.base.Source` asks, credit included, without a process on the other side.

    `settled` maps the sequence of each settled message to its settlement, `retries` lists (seq, delay, reason) and `given_back` the
    sequences that came back. A message that is retried is delivered again without delay, with one attempt more.
    """

    def __init__(self, name: str = "memory://", *, epoch: int = 1, answers: bool = True) -> None:
        self.epoch = epoch
        self.name = name
        self.answers = answers
        self.settled: dict[int, Settlement] = {}
        self.retries: list[tuple[int, float, str]] = []
        self.given_back: list[int] = []
        self._changed = threading.Condition()
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._credit = 0
        self._last = 0
        self._waiting: deque[Delivery] = deque()
        self._held: dict[int, Delivery] = {}
        self._ended = False

    def put(self, body: bytes, *, headers: Mapping[str, Any] | None = None, redelivered: bool = False, doom: str = "") -> int:
        """Put a message in; returns its sequence."""
        with self._changed:
            self._last += 1
            delivery = Delivery(
                self._last, body, time.monotonic_ns(), redelivered=redelivered, doom=doom, headers=dict(headers) if headers else None
            )
            self._waiting.append(delivery)
            self._signal()
            return self._last

    def end(self) -> None:
        """Let the source end: `receive` raises EOFError once nothing waits."""
        with self._changed:
            self._ended = True
            self._signal()

    def wait_settled(self, messages: int, timeout: float = 10.0) -> bool:
        """Wait until so many messages are settled; False when they are not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.settled) >= messages, timeout)

    def fileno(self) -> int:
        return self._ready

    def wants_write(self) -> bool:
        return False

    def receive(self) -> Sequence[Delivery]:
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(self._credit, len(self._waiting)))]
            self._credit -= len(taken)
            self._held.update((delivery.seq, delivery) for delivery in taken)
            if self._ended and not taken and not self._waiting:
                raise EOFError
            self._signal()
            return taken

    def flush(self) -> None:
        """Nothing is ever left to write."""

    def due(self) -> float | None:
        return None

    def finish(self, until: float) -> None:
        """Outcomes are out as soon as they are told."""

    def grant(self, messages: int) -> None:
        with self._changed:
            self._credit += messages
            self._signal()

    def settle(self, settlements: Sequence[Settlement]) -> None:
        with self._changed:
            for item in settlements:
                del self._held[item.seq]
                self.settled[item.seq] = item
            self._changed.notify_all()

    def retry(self, seq: int, delay: float, reason: str) -> None:
        with self._changed:
            self.retries.append((seq, delay, reason))
            delivery = self._held.pop(seq)
            self._waiting.append(msgspec.structs.replace(delivery, attempt=delivery.attempt + 1))
            self._signal()

    def give_back(self, seqs: Sequence[int]) -> None:
        with self._changed:
            self.given_back.extend(seqs)
            self._waiting.extendleft(self._held.pop(seq) for seq in reversed(seqs))
            self._signal()

    def close(self) -> None:
        os.close(self._ready)

    def _signal(self) -> None:
        """Let the descriptor be readable exactly while `receive` has something to say."""
        if (self._waiting and self._credit) or (self._ended and not self._waiting):
            os.eventfd_write(self._ready, 1)
        else:
            try:
                os.eventfd_read(self._ready)
            except BlockingIOError:
                return
