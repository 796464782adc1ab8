"""The relay: takes messages from the outbox to their brokers. One process relays at a time for each job and store; every worker can.

It has a thread of its own, which sleeps until a commit has put something in. Whoever wakes takes the relay's name in the store, sends
until nothing is left that can be sent, and gives the name back. What a dead one has left is found by the worker that takes its place.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial

from holdfast.stores.base import Store
from holdfast.stores.outbox import Depth, depth
from holdfast.telemetry import events
from holdfast.worker.outflow import Outflow, Senders
from holdfast.worker.trace import reason_of

_TAKEN_PAUSE, _LONGEST_TAKEN_PAUSE = 0.2, 1.0  # seconds before the name is asked for again
_AWAY_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_LINGER = 1.0  # seconds that connections are kept for the next commit


class Relay:
    """`wake` from any thread; `news` is for the I/O loop, which `tell` wakes."""

    def __init__(self, store: Store, job: str, tell: Callable[[], None], fault: Callable[[str], None]) -> None:
        self._store = store
        self._job = job
        self._told = tell
        self._outflow = Outflow(store, job, fault, self._look)
        self._lock = threading.Lock()
        self._senders: Senders = None  # that linger
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._live, name="relay", daemon=True)
        self._waits: Depth | None = None  # as told last
        self._taken = 0  # times in a row that another one had the name
        self._news: tuple[Depth, str | None] | None = None

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

    def news(self) -> tuple[Depth, str | None] | None:
        """What waits, and why ("": for its turn; None: another process knows); None when that was told."""
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
                self._tell(self._waits or Depth(0, None), reason_of(error))

    def _relay(self) -> float | None:
        """Send what can be sent; seconds until the next look, None: when woken."""
        waits = self._store.work(partial(depth, scope=self._job))
        if not waits.messages:
            self._tell(waits, "")
            return None
        hold = self._store.hold(f"relay {self._job}")
        if hold is None:
            return self._leave_it_to_the_other(waits)
        self._taken = 0
        from holdfast.sources.amqp_sending import Senders

        senders = Senders(self._store.outbox.targets, f"holdfast {self._job} outbox")
        try:
            self._outflow.run(hold, senders, self._woken, self._ending)
            self._look(self._outflow.trouble())
            while self._linger(senders) and hold.held():
                self._outflow.run(hold, senders, self._woken, self._ending)
                self._look(self._outflow.trouble())
            return self._outflow.pause() if hold.held() else _TAKEN_PAUSE
        finally:
            with self._lock:
                self._senders = None
            senders.close()
            hold.release()

    def _leave_it_to_the_other(self, waits: Depth) -> float:
        """Look again soon, however much is put in: the other one may be stopped, or on its way out."""
        self._tell(waits, None)
        pause = min(_LONGEST_TAKEN_PAUSE, _TAKEN_PAUSE * 2.0 ** min(self._taken, 10))
        self._taken += 1
        self._ending.wait(pause * (0.5 + random.random() / 2))
        return 0.0

    def _linger(self, senders: Senders) -> bool:
        """Keep name and connections for a moment; whether there is something to send, since it was put in or is due again."""
        with self._lock:
            self._senders = senders
        pause = self._outflow.pause()
        due = pause is not None and pause <= _LINGER
        senders.wait(min(pause or _LINGER, _LINGER), self._woken.is_set)
        return (due or self._woken.is_set()) and not self._ending.is_set()

    def _look(self, trouble: str) -> None:
        """Tell what waits now, and why."""
        waits = self._store.work(partial(depth, scope=self._job))
        self._tell(waits, trouble if waits.messages else "")

    def _tell(self, waits: Depth, trouble: str | None) -> None:
        known, self._waits = self._waits, waits
        if (waits.messages or known is None or known.messages) and not self._ending.is_set():
            self._news = waits, trouble
            self._told()
