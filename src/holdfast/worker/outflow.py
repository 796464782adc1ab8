"""What leaves an outbox while one process has the relay's name: every target in rounds of its own, so that none waits for another."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from holdfast.errors import HoldfastError
from holdfast.model.dispatch import Blame, Pauses, Round, chosen
from holdfast.model.targets import is_queue
from holdfast.stores.base import Hold, Store
from holdfast.stores.outbox import Outgoing, Waiting, remove, take
from holdfast.telemetry import events

MOST = 500  # messages that are fetched at once
MOST_BYTES = 8 << 20  # of their bodies
_LOOKS_EVERY = 0.1  # seconds after which it is seen what has come meanwhile
_TELLS_EVERY = 1.0
_REMOVES_EVERY = 0.5
_NEVER = float("inf")
_LAST_CONFIRMS = 2.0  # seconds that are waited for what is on its way, in the end

Senders = Any  # holdfast.sources.amqp_sending.Senders
Failure = Any  # holdfast.sources.amqp_publisher.Failure


class Outflow:
    """Sends what waits. It is kept from one run to the next, since it knows what was refused and when that is tried again."""

    def __init__(self, store: Store, job: str, fault: Callable[[str], None], tell: Callable[[str], None]) -> None:
        self._store = store
        self._job = job
        self._fault = fault
        self._tell = tell
        self._pauses = Pauses(random.random)
        self._rounds: dict[str, Round[Outgoing]] = {}
        self._confirmed: list[int] = []  # and not removed yet
        self._trouble = ""  # of the last that was refused
        self._told_at = self._removed_at = 0.0
        self._cut = False  # whether the last fetch did not bring all that may be sent

    def run(self, hold: Hold, senders: Senders, woken: threading.Event, ending: threading.Event) -> None:
        """Send until nothing is left that can be sent, or the name is not ours any more."""
        self._begin_anew()
        woken.set()
        look_at = _NEVER
        try:
            while hold.held() and not ending.is_set():
                now = time.monotonic()
                if self._clear_up(now) or woken.is_set() or now >= look_at:
                    woken.clear()
                    self._start_rounds(hold, senders, now)
                    look_at = self._pauses.next_try(now) or _NEVER
                if not self._rounds:
                    return
                self._tell_now_and_then(senders, now)
                senders.wait(_LOOKS_EVERY, self._all_ended)
            self._last_confirms(hold, senders)
        finally:
            for one in self._rounds.values():
                one.closing = True

    def pause(self) -> float | None:
        """Seconds until something is tried again; None when nothing waits for that."""
        now = time.monotonic()
        next_try = self._pauses.next_try(now)
        return None if next_try is None else max(0.05, next_try - now)

    def _begin_anew(self) -> None:
        """What an earlier run has left is over, however that ended; what was taken of it is removed."""
        self._remove()
        self._rounds = {}
        self._told_at = self._removed_at = time.monotonic()

    def _start_rounds(self, hold: Hold, senders: Senders, now: float) -> None:
        """For every target that has something and no round: one may have more than is fetched at once, and others behind it."""
        blocked = self._pauses.blocked(now)
        self._cut = True
        while self._cut:
            ask = partial(take, scope=self._job, most=MOST, without=blocked.and_targets(self._rounds), choose=self._choose)
            for target, messages in self._store.work(ask).items():
                self._rounds[target] = fresh = Round(messages)
                for message in fresh.start():
                    self._send(message, fresh, senders, hold)

    def _choose(self, heads: Sequence[Waiting]) -> Mapping[str, Sequence[int]]:
        found = chosen(heads, self._pauses, MOST_BYTES)
        self._cut = bool(found) and (len(heads) == MOST or sum(map(len, found.values())) < len(heads))
        return found

    def _send(self, message: Outgoing, one: Round[Outgoing], senders: Senders, hold: Hold) -> None:
        def ended(failure: Failure | None) -> None:
            following = self._ended(message, one, failure)
            if following is not None:
                self._send(following, one, senders, hold)

        if not hold.held():
            one.closing = True
            one.ended(message, taken=False)
            return
        try:
            senders.send(message, ended)
        except HoldfastError as error:
            self._refused(message, str(error), Blame.TARGET)
            one.ended(message, taken=False)

    def _ended(self, message: Outgoing, one: Round[Outgoing], failure: Failure | None) -> Outgoing | None:
        if failure is None:
            self._pauses.taken(message, time.monotonic())
        elif not one.closing:
            self._refused(message, failure.reason, failure.blame)
        return one.ended(message, taken=failure is None)

    def _refused(self, message: Outgoing, reason: str, blame: Blame) -> None:
        pause = self._pauses.failed(message, blame, time.monotonic(), whole=is_queue(message.target))
        if pause is not None:
            events.log("outbox.refused", f"{message.target} {message.key}: {reason}", level="warning", again_in=f"{pause:.1f}s")
            self._trouble, self._told_at = reason, 0.0

    def _all_ended(self) -> bool:
        return not any(one.open for one in self._rounds.values())

    def _clear_up(self, now: float) -> bool:
        """What was taken is removed, of rounds that go on now and then only; whether a round has ended."""
        over = [target for target, one in self._rounds.items() if not one.open]
        if over or now - self._removed_at >= _REMOVES_EVERY:
            self._remove()
            self._removed_at = now
        for target in over:
            del self._rounds[target]
        return bool(over)

    def _remove(self) -> None:
        self._confirmed += [number for one in self._rounds.values() for number in one.collect()]
        if self._confirmed:
            self._fault("after-confirm")
            self._store.work(partial(remove, ids=self._confirmed))
            self._confirmed = []

    def _tell_now_and_then(self, senders: Senders, now: float) -> None:
        if now - self._told_at >= _TELLS_EVERY:
            self._told_at = now
            self._tell(senders.trouble or self.trouble())

    def trouble(self) -> str:
        """Why something waits that was tried; "" when nothing does."""
        return self._trouble if self.pause() is not None else ""

    def _last_confirms(self, hold: Hold, senders: Senders) -> None:
        """What is on its way may still be confirmed; nothing follows it."""
        for one in self._rounds.values():
            one.closing = True
        if hold.held() and not senders.trouble:
            senders.wait(_LAST_CONFIRMS, self._all_ended)
        self._remove()
