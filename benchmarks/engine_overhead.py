"""How much the engine itself costs: CPU microseconds a message, with a store and a source that do nothing.

    PYTHONPATH=src python benchmarks/engine_overhead.py [--messages N] [--batch N]

The handler does nothing either; identities, where there are any, cost their hash of the body.
"""

from __future__ import annotations

import argparse
import threading
import time
from typing import Any

from holdfast import Job
from holdfast.model import board
from holdfast.model.breaker import Breaker
from holdfast.model.delivery import Delivery
from holdfast.model.options import JobOptions
from holdfast.model.spec import WorkerSpec
from holdfast.stores.base import Decision, Fault, Verdict
from holdfast.worker.engine import Engine
from holdfast.worker.engine_context import EngineContext

BODY = b"123456,client-login,100.50"
RUN = Decision(Verdict.RUN)


class NullSource:
    epoch, name, answers = 1, "null://", True

    def settle(self, settlements: Any) -> None:
        """Nothing."""


class NullStore:
    """Store, connection and transaction in one."""

    db = None

    def begin(self) -> NullStore:
        return self

    def claim(self, claims: Any) -> list[Decision]:
        return [RUN] * len(claims)

    def fault(self, error: BaseException) -> Fault:
        return Fault.MESSAGE

    def proof(self) -> str:
        return ""

    def touched(self) -> bool:
        return True

    def begin_message(self) -> None:
        """Nothing."""

    def record(self, answers: Any) -> None:
        """Nothing."""

    commit = rollback = begin_message


class One(Job):
    def handle(self, message: Any, db: Any) -> None:
        """Nothing."""


class Named(One):
    def identity(self, message: Any) -> bytes:
        return message.body  # type: ignore[no-any-return]


class Many(Job):
    def handle_batch(self, messages: Any, db: Any) -> None:
        """Nothing."""


def cost(job: Job, messages: int, batch: int, stored: bool) -> float:
    """CPU microseconds a message."""
    spec = WorkerSpec("a", "worker", "A", "A", 1, JobOptions(retries=0, batch=batch, batch_age=10.0), "", 1.0)
    store: Any = NullStore() if stored else None
    context = EngineContext(
        source=NullSource(),  # type: ignore[arg-type]
        store=store,
        connection=store,
        board=board.BoardWriter(memoryview(bytearray(board.size(1, batch))), 1, batch, 1).threads[0],
        draining=threading.Event().is_set,
        pause=lambda _reason: None,
        resume=lambda: None,
        wait=lambda _seconds: True,
        breaker=Breaker(),
        lock=threading.Lock(),
        fault=lambda _point: None,
        letters=None,
        monotonic_ns=time.monotonic_ns,
    )
    engine = Engine(job, spec, context)
    rounds = []
    for _ in range(max(5, messages // batch)):
        deliveries = [Delivery(n, BODY, time.monotonic_ns()) for n in range(batch)]
        began = time.thread_time_ns()
        engine.process(deliveries)
        rounds.append((time.thread_time_ns() - began) / batch / 1e3)
    return sorted(rounds)[len(rounds) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=500)
    chosen = parser.parse_args()
    for name, job, stored in (
        ("handle", One(), True),
        ("handle, identity", Named(), True),
        ("handle, no store", One(), False),
        ("handle_batch", Many(), True),
    ):
        print(f"{name:20} {cost(job, chosen.messages, chosen.batch, stored):6.2f} µs a message (median of the batches)")


if __name__ == "__main__":
    main()
