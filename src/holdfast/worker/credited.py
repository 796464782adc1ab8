"""A source that never holds more than its credit: it counts what comes and goes, and grants anew by itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from holdfast.model.blame import Suspect
from holdfast.model.credit import Credit
from holdfast.model.delivery import Delivery
from holdfast.sources.base import GrantingSource, Settlement


class Credited:
    """An `OpenSource` around another. New credit goes out from the thread that settled, behind its settlement."""

    def __init__(self, source: GrantingSource, most: int, batch: int) -> None:
        self.epoch = source.epoch
        self.name = source.name
        self.answers = source.answers
        self.fileno = source.fileno
        self.wants_write = source.wants_write
        self.flush = source.flush
        self.due = source.due
        self.finish = source.finish
        self.close = source.close
        self._source = source
        self._credit = Credit(most, batch)
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Messages that came and have not been settled, retried or given back."""
        return self._credit.held

    def open(self) -> None:
        """Begin to grant, or go on."""
        with self._lock:
            self._credit.open = True
        self._released(0)

    def shut(self) -> None:
        """Grant nothing more; what was granted before may still come."""
        with self._lock:
            self._credit.open = False

    def blame(self, suspects: Sequence[Suspect]) -> None:
        """The ingress knows them."""

    def receive(self) -> Sequence[Delivery]:
        deliveries = self._source.receive()
        if deliveries:
            with self._lock:
                self._credit.received(len(deliveries))
        return deliveries

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            self._source.settle(settlements)
            self._released(len(settlements))

    def retry(self, seq: int, delay: float, reason: str) -> None:
        self._source.retry(seq, delay, reason)
        self._released(1)

    def give_back(self, seqs: Sequence[int]) -> None:
        if seqs:
            self._source.give_back(seqs)
            self._released(len(seqs))

    def _released(self, messages: int) -> None:
        with self._lock:
            self._credit.released(messages)
            due = self._credit.due()
        if due:
            self._source.grant(due)
