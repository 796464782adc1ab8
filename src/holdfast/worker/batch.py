"""One group of messages in one transaction: begin, inbox, handle, record, commit. That order is law."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from holdfast.model.delivery import DONE
from holdfast.model.delivery_id import delivery_id
from holdfast.model.giving_up import Failure
from holdfast.model.replay import WEATHER, Group, Trouble, Way
from holdfast.stores.base import Claim, Transaction, Verdict
from holdfast.telemetry import events
from holdfast.worker.calls import Calls, failure_of
from holdfast.worker.engine_context import EngineContext
from holdfast.worker.item import CLASH, Item
from holdfast.worker.weather import Undone, Weather, roll_back


@dataclass(slots=True)
class Outcome:
    """What became of a group; items with a failure are in none of these."""

    done: list[Item] = field(default_factory=list)  # committed; without a store settled, too
    known: list[Item] = field(default_factory=list)  # done before; outcome and answer are the stored ones
    busy: list[Item] = field(default_factory=list)  # held by another transaction just now
    late: list[Item] = field(default_factory=list)  # not begun
    brisk: bool = False  # handled in less than half of the time that a transaction may take


class _Breach(Exception):
    """Leaves a savepoint whose message broke the transaction."""


class Batch:
    """Runs groups for one handler thread with a store."""

    def __init__(self, calls: Calls, weather: Weather, context: EngineContext, batch_age: float, inbox: bool) -> None:
        self._calls = calls
        self._weather = weather
        self._inbox = inbox
        self._age_ns = int(batch_age * 1e9)
        self._draining = context.draining
        self._monotonic_ns = context.monotonic_ns
        self._fault = context.fault

    def run(self, group: Group[Item]) -> Outcome:
        """Try the group. Raises Undone when nothing of it happened, or nobody knows whether it did."""
        transaction = self._weather.begin()
        try:
            self._fault("after-begin")
            runnable, outcome = self._ask_inbox(transaction, group.items)
            self._fault("after-inbox")
            began = self._monotonic_ns()
            if self._calls.batch:
                self._run_together(transaction, runnable, group)
            else:
                outcome.late = self._run_each(transaction, runnable, group.way)
            outcome.brisk = 2 * (self._monotonic_ns() - began) < self._age_ns
            begun = runnable[: len(runnable) - len(outcome.late)]  # those not begun are the last
            outcome.done = [item for item in begun if item.failure is None]
            if outcome.done:
                self._finish(transaction, outcome, runnable)
            else:
                roll_back(transaction)
        except BaseException:
            roll_back(transaction)
            raise
        if outcome.done:
            self._fault("after-commit")
        return outcome

    def _ask_inbox(self, transaction: Transaction, items: list[Item]) -> tuple[list[Item], Outcome]:
        """Those that may run, and where the others belong."""
        outcome = Outcome()
        claims = [item.claim for item in items if item.claim is not None]
        if not self._inbox or not claims:
            return items, outcome
        try:
            decisions = transaction.claim(claims)
        except Exception as error:
            raise Undone(self._weather.trouble(error), error) from error
        runnable = []
        for item, decision in zip(items, decisions, strict=True):
            if decision.verdict is Verdict.RUN:
                runnable.append(item)
            elif decision.verdict is Verdict.DONE:
                item.outcome, item.answer = decision.outcome, decision.answer
                outcome.known.append(item)
            elif decision.verdict is Verdict.BUSY:
                outcome.busy.append(item)
            else:
                item.failure = CLASH
        return runnable, outcome

    def _finish(self, transaction: Transaction, outcome: Outcome, runnable: list[Item]) -> None:
        """Record and commit."""
        try:
            if self._inbox:
                if len(outcome.done) < len(runnable):
                    ran = {id(item) for item in outcome.done}
                    transaction.release([item.claim for item in runnable if item.claim is not None and id(item) not in ran])
                transaction.record(_answers(outcome.done))
            self._fault("after-record")
        except Exception as error:
            raise Undone(self._weather.trouble(error), error) from error
        try:
            transaction.commit()
        except Exception as error:
            for item in outcome.done:
                item.doubt()
            raise Undone(self._weather.trouble(error), error) from error

    # handle

    def _run_each(self, transaction: Transaction, items: list[Item], way: Way) -> list[Item]:
        """Handle one after the other; returns those not begun, since the transaction is old enough or the process drains."""
        run = self._run_inside_savepoint if way is Way.CAREFUL else self._run
        now = self._monotonic_ns()
        oldest = now + self._age_ns
        for index, item in enumerate(items):
            if index:
                now = self._monotonic_ns()
                if now > oldest or self._draining():
                    return items[index:]
            run(transaction, item, now, way)
        return []

    def _run(self, transaction: Transaction, item: Item, now_ns: int, way: Way) -> None:
        transaction.begin_message()
        try:
            item.answer = self._calls.one(item, transaction.db, now_ns)
        except BaseException as error:
            self._blame(error, item, transaction)
            if way is not Way.ALONE and (transaction.touched() or transaction.proof()):
                raise Undone(Trouble.OFFENDER, reason=_reason(item)) from None
            return
        self._fault("after-handle")
        broken = self._prove(transaction)
        if broken and way is Way.ALONE:
            item.failure = Failure(broken)
        elif broken:
            raise Undone(Trouble.BREACH, culprit=item, reason=broken)

    def _run_inside_savepoint(self, transaction: Transaction, item: Item, now_ns: int, _way: Way) -> None:
        """A failing message takes back its own writes only; if even its savepoint is gone, it is not run again."""
        transaction.begin_message()
        try:
            with transaction.savepoint():
                item.answer = self._calls.one(item, transaction.db, now_ns)
                broken = self._prove(transaction)
                if broken:
                    item.failure = Failure(broken)
                    raise _Breach
        except _Breach:
            pass
        except Undone:
            raise
        except BaseException as error:
            breach = item.failure
            self._blame(error, item, transaction)
            item.failure = breach or item.failure
        if item.failure is None:
            self._fault("after-handle")
        elif broken := self._prove(transaction):
            raise Undone(Trouble.BREACH, culprit=item, reason=broken)

    def _blame(self, error: BaseException, item: Item, transaction: Transaction) -> None:
        """Note what a handler raised; Undone instead when it, or what it has caught before, speaks of the store's weather."""
        self._look_for_weather(error)
        self._look_for_weather(transaction.lost)
        item.failure = failure_of(error)

    def _look_for_weather(self, error: BaseException | None) -> None:
        if error is not None and (trouble := self._weather.trouble(error)) in WEATHER:
            raise Undone(trouble, error) from error

    def _prove(self, transaction: Transaction) -> str:
        """What broke the transaction; Undone when it was a deadlock or the like that the handler has caught."""
        broken = transaction.proof()
        if broken:
            self._look_for_weather(transaction.lost)
        return broken

    # handle_batch

    def _run_together(self, transaction: Transaction, items: list[Item], group: Group[Item]) -> None:
        """Handle all at once. Several that fail together are undone, to be tried as halves."""
        if not items:
            return
        transaction.begin_message()
        try:
            self._calls.many(items, transaction.db)
        except BaseException as error:
            self._look_for_weather(error)
            self._look_for_weather(transaction.lost)
            self._share_blame(items, failure_of(error))
            return
        self._fault("after-handle")
        broken = self._prove(transaction)
        if broken:
            self._share_blame(items, Failure(broken))
        elif transaction.touched() and len(items) > 1 and (failed := [item for item in items if item.failure is not None]):
            raise Undone(Trouble.OFFENDER, reason=_reason(failed[0]))

    def _share_blame(self, items: list[Item], failure: Failure) -> None:
        if len(items) > 1:
            for item in items:
                item.failure = None
            raise Undone(Trouble.BATCH, reason=failure.reason)
        items[0].failure = items[0].failure or failure


class Unstored:
    """Runs groups for one handler thread without a store: each message is settled right after its handler."""

    def __init__(self, calls: Calls, context: EngineContext, settle: Callable[[Sequence[Item], Sequence[Item]], None]) -> None:
        self._calls = calls
        self._settle = settle
        self._draining = context.draining
        self._monotonic_ns = context.monotonic_ns
        self._fault = context.fault

    def run(self, group: Group[Item]) -> Outcome:
        """Try the group, up to the first message that fails, whose client need not wait for the others."""
        if self._calls.batch:
            return self._run_together(group.items)
        done: list[Item] = []
        for index, item in enumerate(group.items):
            if index and self._draining():
                return Outcome(done, late=group.items[index:])
            try:
                item.answer = self._calls.one(item, None, self._monotonic_ns())
            except BaseException as error:
                item.failure = failure_of(error)
                return Outcome(done, late=group.items[index + 1 :])
            self._fault("after-handle")
            self._settle([item], ())
            done.append(item)
        return Outcome(done)

    def _run_together(self, items: list[Item]) -> Outcome:
        try:
            self._calls.many(items, None)
        except BaseException as error:
            failure = failure_of(error)
            if len(items) > 1:
                raise Undone(Trouble.BATCH, reason=failure.reason) from error
            items[0].failure = failure
            return Outcome()
        self._fault("after-handle")
        done = [item for item in items if item.failure is None]
        self._settle(done, ())
        return Outcome(done)


def tell_clash(item: Item, epoch: int) -> None:
    """From here on a message whose identity belongs to another body goes by its delivery id."""
    events.log("duplicate.clash", CLASH.reason, level="warning", message=delivery_id(epoch, item.delivery.seq))
    item.claim_by_delivery(epoch)
    item.doubt()


def _answers(items: Sequence[Item]) -> list[tuple[Claim, int, bytes]]:
    return [(item.claim, DONE, item.answer) for item in items if item.claim is not None]


def _reason(item: Item) -> str:
    return item.failure.reason if item.failure is not None else ""
