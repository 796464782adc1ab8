"""The relay: takes messages from the outbox to their brokers. One process relays at a time for each job and store; every worker can.

It has a thread of its own, which sleeps until a commit has put something in. Whoever wakes takes the relay's name in the store, sends
until nothing is left that can be sent, and gives the name back. What a dead one has left is found by the worker that takes its place.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.model.dispatch import Pauses, Round
from holdfast.model.targets import Targets
from holdfast.stores.base import Hold, Store
from holdfast.stores.outbox import Depth, Outgoing, depth, remove, waiting
from holdfast.telemetry import events
from holdfast.worker.trace import reason_of

MOST = 500  # messages a round
_TAKEN_PAUSE = 0.2  # seconds before the name is asked for again
_AWAY_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_LINGER = 1.0  # seconds that connections are kept for the next commit
_LOOKS_EVERY = 0.5  # seconds after which a round looks whether the process drains

Senders = Any  # holdfast.sources.amqp_sending.Senders


class Relay:
    """`wake` from any thread; `news` is for the I/O loop, which `tell` wakes."""

    def __init__(self, store: Store, job: str, tell: Callable[[], None], fault: Callable[[str], None]) -> None:
        self._store = store
        self._job = job
        self._targets: Targets = store.outbox.targets
        self._told = tell
        self._fault = fault
        self._lock = threading.Lock()
        self._senders: Senders = None  # that linger
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._pauses = Pauses()
        self._thread = threading.Thread(target=self._live, name="relay", daemon=True)
        self._waits = Depth(0, None)
        self._news: tuple[Depth, str] | None = None

    def start(self) -> None:
        """Begin with what an earlier process has left."""
        self._woken.set()
        self._thread.start()

    def wake(self) -> None:
        """Something was published, or it is time to look."""
        self._woken.set()
        with self._lock:
            if self._senders is not None:
                self._senders.poke()

    def news(self) -> tuple[Depth, str] | None:
        """What waits, and why, where something does not leave; None when that was told."""
        news, self._news = self._news, None
        return news

    def end(self, seconds: float) -> None:
        """Finish the round that is on its way; what is left stays for others."""
        self._ending.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _live(self) -> None:
        pause = None
        failures = 0
        while True:
            self._woken.wait(pause)
            if self._ending.is_set():
                return
            self._woken.clear()
            try:
                pause = self._relay()
                failures = 0
            except Exception as error:
                events.log("outbox.waits", reason_of(error), level="warning")
                failures += 1
                pause = min(_LONGEST_PAUSE, _AWAY_PAUSE * 2.0 ** min(failures, 10)) * (0.5 + random.random() / 2)
                self._tell(self._waits, reason_of(error))

    def _relay(self) -> float | None:
        """Send what can be sent; seconds until the next look, None: when woken."""
        waits = self._store.work(partial(depth, scope=self._job))
        if not waits.messages:
            self._tell(waits, "")
            return None
        hold = self._store.hold(f"relay {self._job}")
        if hold is None:
            return _TAKEN_PAUSE * (0.5 + random.random())
        from holdfast.sources.amqp_sending import Senders

        senders = Senders(self._targets, f"holdfast {self._job} outbox")
        try:
            pause = self._send_all(hold, senders)
            while pause is None and self._linger(senders):
                pause = self._send_all(hold, senders)
            return pause
        finally:
            with self._lock:
                self._senders = None
            senders.close()
            hold.release()

    def _linger(self, senders: Senders) -> bool:
        """Keep the connections for a moment; whether something was put in meanwhile."""
        with self._lock:
            self._senders = senders
        senders.wait(_LINGER, self._woken.is_set)
        woken = self._woken.is_set() and not self._ending.is_set()
        if woken:
            self._woken.clear()
        return woken

    def _send_all(self, hold: Hold, senders: Senders) -> float | None:
        trouble = ""
        while not self._ending.is_set() and hold.held():
            blocked = self._pauses.blocked(time.monotonic())
            messages = self._store.work(partial(waiting, scope=self._job, most=MOST, without=blocked))
            if not messages:
                break
            trouble = self._send(messages, senders, hold) or trouble
            if trouble:
                self._tell(self._store.work(partial(depth, scope=self._job)), trouble)
        waits = self._store.work(partial(depth, scope=self._job))
        self._tell(waits, trouble if waits.messages else "")
        if not waits.messages:
            return None
        now = time.monotonic()
        return max(0.05, (self._pauses.next_try(now) or now) - now)

    def _send(self, messages: list[Outgoing], senders: Senders, hold: Hold) -> str:
        """One round; why something was not taken."""
        outgoing = Round(messages)
        trouble: list[str] = []

        def send(message: Outgoing) -> None:
            try:
                senders.send(message, lambda failure: ended(message, failure))
            except HoldfastError as error:
                ended(message, str(error))

        def ended(message: Outgoing, failure: str) -> None:
            if failure:
                pause = self._pauses.failed((message.target, message.key), time.monotonic())
                trouble.append(failure)
                events.log("outbox.refused", f"{message.target} {message.key}: {failure}", level="warning", again_in=f"{pause:g}s")
            else:
                self._pauses.taken((message.target, message.key))
            following = outgoing.ended(message, taken=not failure)
            if following is not None:
                send(following)

        for message in outgoing.start():
            send(message)
        while outgoing.open and not self._ending.is_set() and hold.held():
            senders.wait(_LOOKS_EVERY, lambda: not outgoing.open)
        if outgoing.taken:
            self._fault("after-confirm")
            self._store.work(partial(remove, ids=outgoing.taken))
        return trouble[-1] if trouble else ""

    def _tell(self, waits: Depth, trouble: str) -> None:
        if (waits.messages or self._waits.messages) and not self._ending.is_set():
            self._news = waits, trouble
            self._told()
        self._waits = waits
