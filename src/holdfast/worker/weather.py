"""The store's weather as one handler thread sees it: what an error says, and sitting out a store that is away."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.model.replay import MOST_REPLAYS, Trouble
from holdfast.stores.base import Connection, Fault, Store, Transaction
from holdfast.telemetry import events
from holdfast.worker.engine_context import EngineContext

FIRST_WAIT, LONGEST_WAIT = 0.1, 3.0
_REPLAY_WAIT = 0.02
_BUSY_WAIT, _LONGEST_BUSY_WAIT = 0.002, 0.1
_DEEPEST_CHAIN = 10
_TROUBLES = {Fault.MESSAGE: Trouble.REFUSED, Fault.TRANSIENT: Trouble.TRANSIENT, Fault.LOST: Trouble.LOST, Fault.AWAY: Trouble.AWAY}


class Undone(Exception):
    """Nothing of a transaction has happened; of a failed commit the inbox will know. `cause` is the store's error, if it was one."""

    def __init__(self, trouble: Trouble, cause: BaseException | None = None, *, culprit: object = None, reason: str = "") -> None:
        super().__init__(trouble.value)
        self.trouble = trouble
        self.cause = cause
        self.culprit = culprit
        self.reason = reason or (told(cause) if cause is not None else trouble.value)


class Weather:
    """One thread's view; a store and a connection are there."""

    def __init__(self, store: Store, connection: Connection, context: EngineContext, draw: Callable[[], float]) -> None:
        self._store = store
        self._connection = connection
        self._context = context
        self._draw = draw

    def begin(self) -> Transaction:
        """Begin; Undone when the store does not let us. No message is to blame for that."""
        try:
            return self._connection.begin()
        except Exception as error:
            trouble = self.trouble(error)
            raise Undone(trouble if trouble is Trouble.TRANSIENT else Trouble.AWAY, error) from error

    def trouble(self, error: BaseException) -> Trouble:
        """What the error, or one behind it, says of the store; REFUSED when it says nothing."""
        at: BaseException | None = error
        for _ in range(_DEEPEST_CHAIN):
            if at is None:
                break
            trouble = _TROUBLES[self._store.fault(at)]
            if trouble is not Trouble.REFUSED:
                return trouble
            at = at.__cause__ or at.__context__
        return Trouble.REFUSED

    def answers(self) -> bool:
        """Whether the store lets a fresh connection write now."""
        try:
            self._connection.probe()
        except Exception:
            return False
        return True

    def sit_out(self, reason: str, replays: int = 0) -> bool:
        """Pause the source until the store answers again; False when the process drains before that.

        A store that answers a probe and nothing else is asked at growing intervals (`replays`).
        """
        events.log("store.away", reason, level="error")
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(replays, MOST_REPLAYS))
        while True:
            self._context.pause(f"store away: {reason}")
            if not self._context.wait(wait * (0.5 + self._draw() / 2)):
                return False
            if self.answers():
                break
            wait = min(LONGEST_WAIT, 2 * wait)
        events.log("store.back")
        with self._context.lock:
            opened = self._context.breaker.opened
        if not opened:
            self._context.resume()
        return True

    def let_pass(self, replays: int) -> None:
        """A deadlock's parties must not meet again at once."""
        self._context.wait(_REPLAY_WAIT * (replays + 1) * (0.1 + 0.9 * self._draw()))

    def let_finish(self, asked: int) -> bool:
        """Wait for the transaction that holds what we want; False when the process drains."""
        return self._context.wait(min(_LONGEST_BUSY_WAIT, _BUSY_WAIT * 2.0 ** min(asked, 10)) * (0.5 + self._draw() / 2))


def roll_back(transaction: Transaction) -> None:
    """Roll back; the next `begin` finds out by itself when even that failed."""
    try:
        transaction.rollback()
    except Exception as error:
        events.log("store.rollback-failed", told(error), level="warning")


def told(error: BaseException) -> str:
    """A store's error in one line; where in our own code it came up helps nobody."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
