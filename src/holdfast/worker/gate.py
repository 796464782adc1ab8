"""The process's breaker as one handler thread sees it: with its lock, its log lines, and the pause of the source."""

from __future__ import annotations

from holdfast.model.breaker import Breaker
from holdfast.telemetry import events
from holdfast.worker.engine_context import EngineContext


class Gate:
    """Asks and tells the breaker."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._breaker: Breaker = context.breaker
        self._probing = False

    @property
    def opened(self) -> bool:
        """Whether messages are held back; one look without the lock is enough for a state that others change at any time."""
        return self._breaker.opened

    def failed(self, seq: int, reason: str, now_ns: int) -> None:
        """A message failed, alone."""
        with self._context.lock:
            opened = self._breaker.failed(seq, reason, now_ns / 1e9)
            self._probing = False
        if opened:
            events.log("breaker.opened", self._breaker.reason, level="error")

    def succeeded(self) -> None:
        """A message was handled and committed."""
        with self._context.lock:
            closed = self._breaker.succeeded()
            self._probing = False
        if closed:
            events.log("breaker.closed")
            self._context.resume()

    def ask(self, now_ns: int) -> float:
        """0 when this thread may try one message, seconds to wait otherwise."""
        with self._context.lock:
            wait = self._breaker.ask(now_ns / 1e9)
            self._probing = wait == 0
        return wait

    def probed(self) -> None:
        """The try is over; if nobody was told how it ended, it tells nothing."""
        if self._probing:
            self._probing = False
            with self._context.lock:
                self._breaker.abandoned(self._context.monotonic_ns() / 1e9)

    def shut(self) -> None:
        """Messages are held back: no more of them."""
        self._context.pause(self._breaker.reason)

    def let_go(self) -> None:
        """This thread holds nothing any more. While the breaker is open somebody has to get the message that will close it."""
        if self._breaker.opened:
            self._context.resume()
