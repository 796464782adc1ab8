"""Order by key: the engine of an `ordered` job's one thread begins a message only when the one before it with its key is settled.

What is to be tried again is kept by the source, in this process, and its key waits for it; other keys go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec

from holdfast.errors import AppError
from holdfast.model.delivery import Delivery
from holdfast.model.job import Job
from holdfast.model.order import Order
from holdfast.model.spec import WorkerSpec
from holdfast.sources.base import Settlement
from holdfast.worker.engine import Engine
from holdfast.worker.engine_context import EngineContext
from holdfast.worker.item import MessageMaker
from holdfast.worker.trace import reason_of


class OrderedEngine:
    """An engine that is given the first message of each key only."""

    def __init__(self, job: Job, spec: WorkerSpec, context: EngineContext) -> None:
        if type(job).key is Job.key:
            raise AppError(f"{spec.job} is ordered and says no key", remedy="give it key(self, message), or leave out ordered")
        source: Any = context.source  # an AmqpSource: what it numbers below `void_below` is void
        self._source = source
        self._job = job
        self._draining = context.draining
        self._order = Order()
        self._settled: list[int] = []
        self._make = MessageMaker(source.epoch, source.name, lambda _seconds: None, context.monotonic_ns)
        self._engine = Engine(job, spec, replace(context, source=_Watched(source, self._settled)))

    def process(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Handle what may begin, and what follows from that. What is left when the process drains goes back with the channel."""
        ready = self._order.forget(self._source.void_below)
        self._make.look_at_the_clock()
        ready += [delivery for one in deliveries if (delivery := self._admit(one)) is not None]
        left: list[Delivery] = []
        while ready and not left:
            if self._draining():
                return ready
            left = self._engine.process(ready)
            settled = self._settled[:]
            self._settled.clear()
            ready = [*self._order.forget(self._source.void_below), *self._order.ended(settled)]
        return left + ready

    def retry_letters(self) -> None:
        """A dead letter is out of the order."""
        self._engine.retry_letters()

    def close(self) -> None:
        self._engine.close()

    def _admit(self, delivery: Delivery) -> Delivery | None:
        """The same if it may begin; None when it waits, or is void. One whose key cannot be told becomes a dead letter."""
        if delivery.seq < self._source.void_below:
            return None
        key = None
        if not delivery.doom:
            try:
                key = self._job.key(self._make.make(delivery))
                hash(key)
            except Exception as error:
                return msgspec.structs.replace(delivery, doom=f"key() failed: {reason_of(error)}"[:1000])
        return delivery if self._order.arrived(delivery, key) else None


class _Watched:
    """The source, and a list of what is settled."""

    def __init__(self, source: Any, settled: list[int]) -> None:
        self._source = source
        self._settled = settled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self._source.settle(settlements)
        self._settled += [one.seq for one in settlements]
