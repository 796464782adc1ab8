"""Publishes numbered messages to a cluster, whatever happens to its nodes."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from contextlib import closing

import pika

from holdfast.model.broker import parse_broker
from holdfast.sources.amqp_loop import NestedLoop
from holdfast.sources.amqp_publisher import Failure, Publication, Publisher

WINDOW = 500  # messages on their way at once, at most
TURN = 0.02  # seconds


class Feeder(threading.Thread):
    """Publishes the numbers from 0 to `total` - 1, not more than `rate` a second. As a context manager it is ended.

    What was not confirmed is published again, under the same message id: the broker may have it already.
    """

    def __init__(self, url: str, queue: str, total: int, rate: float) -> None:
        super().__init__(daemon=True)
        self.total, self.confirmed, self.repeated = total, 0, 0
        self.failed = False
        self.reasons: Counter[str] = Counter()  # why something was not confirmed
        self._address, self._queue, self._rate = parse_broker(url), queue, rate
        self._again: deque[int] = deque()
        self._refused: list[int] = []  # for the next turn
        self._next = 0
        self._over = threading.Event()

    def __enter__(self) -> Feeder:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        try:
            with closing(NestedLoop()) as loop:
                self._feed(loop, Publisher(loop, self._address, "feeder"))
        except BaseException:
            self.failed = True
            raise

    def _feed(self, loop: NestedLoop, publisher: Publisher) -> None:
        began = time.monotonic()
        while self.confirmed < self.total and not self._over.is_set():
            due = min(self.total, 1 + int((time.monotonic() - began) * self._rate))
            while publisher.pending < WINDOW and (self._again or self._next < due):
                self._publish(publisher)
            self._again.extend(self._refused)
            self._refused.clear()
            loop.wait(time.monotonic() + TURN, lambda: False)
        publisher.close()
        loop.wait(time.monotonic() + 2, lambda: publisher.gone)

    def _publish(self, publisher: Publisher) -> None:
        if self._again:
            number = self._again.popleft()
            self.repeated += 1
        else:
            number = self._next
            self._next += 1

        def done(failure: Failure | None) -> None:
            if failure is None:
                self.confirmed += 1
            else:
                self._refused.append(number)
                self.reasons[failure.reason] += 1

        properties = pika.BasicProperties(message_id=f"booking-{number}")
        publisher.publish(Publication("", self._queue, b"%d" % number, properties), done)
