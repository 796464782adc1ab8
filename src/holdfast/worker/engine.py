"""What happens to the messages of one handler thread: begin, inbox, handle, record, commit, settle. That order is law (G3, G4).

A list of deliveries is cut into groups. A group is tried in one transaction; what is left after the try comes back as smaller or
other groups, until every message is settled, given to the source for a later try, or left for others because of a drain:

    spoiled by a handler    the same group once more, with a savepoint a message, without those known to fail
    batch failed            handle_batch: its two halves
    deadlock and the like   the same group again, five times; then its messages alone
    store away              the source pauses; the same group again, as messages that may have been committed already
"""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast.model.delivery import DONE, FAILED, Delivery
from holdfast.model.giving_up import Failure, next_try
from holdfast.model.job import Job
from holdfast.model.message import Message, Reject, Retry
from holdfast.model.spec import WorkerSpec
from holdfast.sources.base import Settlement, Source
from holdfast.stores.base import Connection, DeadLetter, Fault, Store, Transaction, Verdict
from holdfast.telemetry import events
from holdfast.worker.engine_context import EngineContext
from holdfast.worker.item import Item, encode_answer, failure_of, make_claim, received_at

MOST_REPLAYS = 5
MOST_LETTERS = 100
NS = 1_000_000_000


@dataclass(slots=True)
class Group:
    """Messages that are tried in one transaction."""

    items: list[Item]
    savepoints: bool = False
    replays: int = 0


class Spoiled(Exception):
    """A handler has left the transaction in a state that must not be committed. Its item has its failure set."""


class Engine:
    """One per handler thread; used by that thread only."""

    def __init__(self, job: Job, spec: WorkerSpec, context: EngineContext) -> None:
        self._job = job
        self._spec = spec
        self._options = spec.options
        self._context = context
        self._source_or_none = context.source
        self._batch = type(job).handle_batch if hasattr(type(job), "handle_batch") else None  # type: ignore[attr-defined]
        self._call = getattr(job, "handle_batch" if self._batch else "handle", None)
        self._takes_db = self._call is not None and len(inspect.signature(self._call).parameters) > 1
        self._inbox = spec.options.inbox and context.store is not None
        self._asks_identity = type(job).identity is not Job.identity

    # --- the boundary with the thread

    def process(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Handle, commit and settle these; returns those that were not begun, because a drain was asked for."""
        self._context.fault("after-take")
        groups = deque([Group([self._item(delivery) for delivery in deliveries])])
        while groups and not self._context.draining():
            if self._breaker_holds():
                groups = deque(Group([item]) for group in groups for item in group.items)
            groups.extendleft(reversed(self._try(groups.popleft())))
        return [item.delivery for group in groups for item in group.items]

    def retry_letters(self) -> None:
        """Try the dead letters again that an operator has marked, each alone. A second time is harmless: the letter is gone then."""
        box = self._store.letters() if self._letters_in_store else self._context.letters
        for letter in box.marked(self._spec.job, MOST_LETTERS) if box is not None else []:
            if self._context.draining():
                return
            self._retry_letter(letter)

    def _retry_letter(self, letter: DeadLetter) -> None:
        try:
            done = self._in_store(letter) if self._context.store is not None else self._from_file(letter)
        except BaseException as error:
            self._context.board.end()
            failure = failure_of(error)
            events.log("letter.failed", failure.reason, level="warning", letter=letter.id, trace=failure.trace)
            self._bury_again(replace(letter, reason=failure.reason, trace=failure.trace, attempts=letter.attempts + 1))
            return
        if done:
            events.log("letter.done", letter=letter.id)

    def _in_store(self, letter: DeadLetter) -> bool:
        """Handle and take the letter out in one transaction; False when somebody else did."""
        transaction = self._connection.begin()
        try:
            if self._letters_in_store and not transaction.unbury(letter):
                transaction.rollback()
                return False
            item = self._run_letter(letter, transaction.db, transaction)
            if letter.identity is not None and self._inbox:
                claim = make_claim(item, 0, letter.identity)
                transaction.release([claim])  # the row that says FAILED makes way for one that says DONE
                transaction.claim([claim])
                transaction.record([(claim, DONE, item.answer)])
            transaction.commit()
        except BaseException:
            self._roll_back(transaction)
            raise
        return self._letters_in_store or bool(self._context.letters.unbury(letter))

    def _from_file(self, letter: DeadLetter) -> bool:
        self._run_letter(letter, None, None)
        return bool(self._context.letters.unbury(letter))

    def _run_letter(self, letter: DeadLetter, db: object, transaction: Transaction | None) -> Item:
        now = self._context.monotonic_ns()
        message = Message(
            letter.body,
            id=letter.message_id,
            headers=letter.headers,
            attempt=letter.attempts + 1,
            source=letter.source,
            extend=self._extend,
        )
        item = Item(Delivery(0, letter.body, now), message)
        if transaction is not None:
            transaction.begin_message()
        if self._batch:
            self._context.board.begin(0, now, now + int(self._options.timeout * NS))
            self._take_answers([item], self._call_batch([item], db))
            self._context.board.end()
        else:
            self._handle(item, db, now)
        broken = transaction.proof() if transaction is not None else ""
        if broken or item.failure is not None:
            raise Reject(broken or (item.failure.reason if item.failure else ""))
        return item

    def _bury_again(self, letter: DeadLetter) -> None:
        """The letter goes back among the dead, with its new reason, under the same id."""
        try:
            if not self._letters_in_store:
                self._context.letters.bury(letter)
                self._context.letters.unbury(letter)
                return
            transaction = self._connection.begin()
            try:
                if transaction.unbury(letter):
                    transaction.bury(letter)
                transaction.commit()
            except BaseException:
                self._roll_back(transaction)
                raise
        except Exception as error:
            events.log("letter.failed", f"it stays marked: {error}", level="error", letter=letter.id)

    def close(self) -> None:
        """Give the connection back."""
        if self._context.connection is not None:
            self._context.connection.close()

    # --- one group

    def _try(self, group: Group) -> list[Group]:
        if not group.items:
            return []
        try:
            left = self._transact(group) if self._context.store is not None else self._one_by_one(group)
        except Spoiled:
            left = [Group([i for i in group.items if i.failure is None], savepoints=True, replays=group.replays)]
            self._say_replayed(group)
        except Exception as error:  # the store's own; a handler's never comes here
            left = self._after_fault(group, error)
        again = [item for item in group.items if item.failure is not None and not self._finish(item)]
        return [*left, *(Group([item]) for item in again)]

    def _transact(self, group: Group) -> list[Group]:
        """Run the group in one transaction. Spoiled or the store's error: nothing of it has happened."""
        transaction = self._connection.begin()
        try:
            self._context.fault("after-begin")
            run, known, busy = self._ask_inbox(transaction, [i for i in group.items if i.failure is None])
            self._context.fault("after-inbox")
            late = self._run_batch(transaction, run) if self._batch else self._run_each(transaction, run, group.savepoints)
            if isinstance(late, list) and late and self._inbox:
                transaction.release([i.claim for i in late if i.claim])
            done = [i for i in run if i.failure is None and i not in late] if late or self._any_failed(run) else run
            if self._inbox:
                transaction.record([(i.claim, DONE, i.answer) for i in done if i.claim])
            self._context.fault("after-record")
            transaction.commit()
        except BaseException:
            self._context.board.end()
            self._roll_back(transaction)
            raise
        self._context.fault("after-commit")
        self._settle(done, known)
        if busy and not (done or known):
            self._context.wait(0.005 * (1 + random.random()))
        return [Group(rest) for rest in (late, busy) if rest]

    def _ask_inbox(self, transaction: Transaction, items: list[Item]) -> tuple[list[Item], list[Item], list[Item]]:
        """Those to run, those done before (their answer is set), those that another transaction holds just now."""
        asked = [item for item in items if self._identify(item)]
        if not self._inbox:
            return asked, [], []
        run: list[Item] = []
        known: list[Item] = []
        busy: list[Item] = []
        claims = [item.claim for item in asked if item.claim is not None]
        for item, decision in zip(asked, transaction.claim(claims), strict=True):
            if decision.verdict is Verdict.RUN:
                run.append(item)
            elif decision.verdict is Verdict.DONE:
                item.outcome, item.answer = decision.outcome, decision.answer
                known.append(item)
            elif decision.verdict is Verdict.BUSY:
                busy.append(item)
            else:
                item.failure = Failure("the same identity came before with another body", final=True)
        return run, known, busy

    def _run_each(self, transaction: Transaction, items: list[Item], savepoints: bool) -> list[Item]:
        """Handle one after the other; returns those not begun, since the transaction is old enough or a drain was asked for."""
        began = self._context.monotonic_ns()
        oldest = began + int(self._options.batch_age * NS)
        for index, item in enumerate(items):
            now = self._context.monotonic_ns()
            if index and (now > oldest or self._context.draining()):
                return items[index:]
            if savepoints:
                self._run_alone(transaction, item, now)
            else:
                self._run_shared(transaction, item, now)
        return []

    def _run_shared(self, transaction: Transaction, item: Item, now: int) -> None:
        transaction.begin_message()
        try:
            self._handle(item, transaction.db, now)
        except BaseException as error:
            self._note_failure(transaction, item, error)
        broken = transaction.proof()
        if broken and item.failure is None:
            item.failure = Failure(broken)
        if item.failure is None:
            return
        if broken or transaction.touched():
            raise Spoiled from None
        if item.claim is not None:
            transaction.release([item.claim])

    def _run_alone(self, transaction: Transaction, item: Item, now: int) -> None:
        """Handle inside a savepoint, so that a failing message takes back its own writes only."""
        transaction.begin_message()
        try:
            with transaction.savepoint():
                self._handle(item, transaction.db, now)
                broken = transaction.proof()
                if broken:
                    raise Reject(broken)
        except BaseException as error:
            self._note_failure(transaction, item, error)
        if item.failure is None:
            return
        transaction.begin_message()
        if transaction.proof():
            raise Spoiled from None
        if item.claim is not None:
            transaction.release([item.claim])

    def _note_failure(self, transaction: Transaction, item: Item, error: BaseException) -> None:
        """A handler raised. The store's own weather is not the message's fault and goes on to `_after_fault`."""
        self._context.board.end()
        if isinstance(error, Exception) and not isinstance(error, Retry | Reject) and self._store.fault(error) is not Fault.MESSAGE:
            raise error
        item.failure = item.failure or failure_of(error)

    def _handle(self, item: Item, db: object, now: int) -> None:
        board = self._context.board
        board.begin(item.delivery.seq, now, now + int(self._options.timeout * NS))
        assert self._call is not None
        answer = self._call(item.message, db) if self._takes_db else self._call(item.message)
        item.answer = encode_answer(answer)
        board.end()
        self._context.fault("after-handle")

    def _run_batch(self, transaction: Transaction, items: list[Item]) -> list[Item]:
        """Handle them together. Items that answer Retry or Reject spoil the transaction, which is replayed without them."""
        if not items:
            return []
        now = self._context.monotonic_ns()
        self._context.board.begin_many([i.delivery.seq for i in items], now, now + int(self._options.timeout * NS))
        transaction.begin_message()
        try:
            self._take_answers(items, self._call_batch(items, transaction.db))
            broken = transaction.proof()
        except Exception as error:
            if self._store.fault(error) is not Fault.MESSAGE:
                raise
            self._batch_failed(items, failure_of(error))
        except BaseException as error:
            self._batch_failed(items, failure_of(error))
        else:
            if broken:
                self._batch_failed(items, Failure(broken))
        self._context.board.end()
        if self._any_failed(items):
            raise Spoiled
        self._context.fault("after-handle")
        return []

    def _batch_failed(self, items: list[Item], failure: Failure) -> None:
        if len(items) > 1:
            raise HalvesNeeded(failure.reason) from None
        items[0].failure = failure

    def _call_batch(self, items: list[Item], db: object) -> object:
        messages = [item.message for item in items]
        assert self._call is not None
        return self._call(messages, db) if self._takes_db else self._call(messages)

    def _take_answers(self, items: list[Item], answers: object) -> None:
        if answers is None:
            answers = [None] * len(items)
        if not isinstance(answers, list | tuple) or len(answers) != len(items):
            raise TypeError(f"handle_batch got {len(items)} messages; answer with None or a list of as many answers")
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, Retry | Reject):
                item.failure = failure_of(answer)
            else:
                item.answer = encode_answer(answer)

    # --- after the commit

    def _settle(self, done: list[Item], known: list[Item]) -> None:
        now = self._context.monotonic_ns()
        settlements = [Settlement(i.delivery.seq, DONE, i.answer) for i in done]
        settlements += [Settlement(i.delivery.seq, i.outcome, i.answer) for i in known]
        if settlements:
            self._source.settle(settlements)
        self._context.fault("after-settle")
        board = self._context.board
        if done:
            board.count("handled", len(done))
            board.count("batches")
            self._succeeded()
        if known:
            board.count("duplicates", len(known))
        board.settled(len(settlements), [now - i.delivery.received_ns for i in (*done, *known)], now)

    def _one_by_one(self, group: Group) -> list[Group]:
        """No store, no shared transaction: each message settles right after its handler."""
        items = [i for i in group.items if i.failure is None]
        if self._batch:
            return self._batch_without_store(items)
        for index, item in enumerate(items):
            if self._context.draining():
                return [Group(items[index:])]
            try:
                self._handle(item, None, self._context.monotonic_ns())
            except BaseException as error:
                self._context.board.end()
                item.failure = failure_of(error)
            else:
                self._settle([item], [])
        return []

    def _batch_without_store(self, items: list[Item]) -> list[Group]:
        now = self._context.monotonic_ns()
        self._context.board.begin_many([i.delivery.seq for i in items], now, now + int(self._options.timeout * NS))
        try:
            self._take_answers(items, self._call_batch(items, None))
        except BaseException as error:
            for item in items:
                item.failure = failure_of(error)
        self._context.board.end()
        self._settle([i for i in items if i.failure is None], [])
        return []

    # --- what failed

    def _after_fault(self, group: Group, error: Exception) -> list[Group]:
        """The transaction did not happen, or nobody knows whether it did: the inbox will."""
        items = [item for item in group.items if item.failure is None]
        for item in items:
            item.unsure, item.claim = True, None
        if isinstance(error, HalvesNeeded):
            middle = len(items) // 2
            return [Group(items[:middle]), Group(items[middle:])]
        fault = self._store.fault(error)
        if fault is Fault.AWAY:
            self._wait_for_store(error)
        elif fault is Fault.TRANSIENT:
            self._context.wait(random.uniform(0.001, 0.02) * (group.replays + 1))
        if fault is not Fault.MESSAGE and group.replays < MOST_REPLAYS:
            self._context.board.count("replays")
            return [replace(group, items=items, replays=group.replays + 1)]
        if len(items) > 1:
            return [Group([item]) for item in items]
        for item in items:
            item.failure = failure_of(error)
        return []

    def _wait_for_store(self, error: Exception) -> None:
        """Pause the source until the store answers again; nothing is dead-lettered for it."""
        events.log("store.away", str(error), level="warning")
        self._context.pause(f"store away: {error}")
        pause = 0.1
        while self._context.wait(pause * random.uniform(0.5, 1.0)):
            if self._store_answers():
                events.log("store.back")
                break
            pause = min(10.0, pause * 2)
        self._context.resume()

    def _store_answers(self) -> bool:
        try:
            self._connection.begin().rollback()
        except Exception as error:
            return self._store.fault(error) is Fault.MESSAGE
        return True

    def _finish(self, item: Item) -> bool:
        """Retry a failed message later or make it a dead letter; False when it has to be tried again here."""
        failure = item.failure
        assert failure is not None
        now = self._context.monotonic_ns()
        age = (now - item.delivery.received_ns) / NS
        if not failure.final and self._breaker_takes(item, failure, age, now):
            item.failure = None
            return False
        wait = next_try(failure, item.delivery.attempt, self._options, self._source.answers, age, random.random())
        self._context.board.count("failed")
        events.log("message.failed", failure.reason, level="warning", message=item.message.id, trace=failure.trace)
        if wait is not None:
            self._context.board.count("retried")
            self._source.retry(item.delivery.seq, wait, failure.reason)
        else:
            self._bury(item, failure)
        return True

    def _bury(self, item: Item, failure: Failure) -> None:
        """A dead letter, and FALSE, in one transaction with the inbox row. If it cannot be stored, the message stays unsettled."""
        for _ in range(MOST_REPLAYS):
            try:
                outcome, answer = self._bury_in_store(item, failure) if self._letters_in_store else self._bury_in_file(item, failure)
            except Exception as error:
                item.unsure, item.claim = True, None  # its commit may have happened: the inbox will know
                if not self._worth_another_try(error):
                    break
            else:
                self._context.board.count("dead")
                events.log("message.dead", failure.reason, level="error", message=item.message.id)
                self._source.settle([Settlement(item.delivery.seq, outcome, answer)])
                return
        events.log("message.unsettled", "its dead letter cannot be stored", level="error", message=item.message.id)
        self._source.retry(item.delivery.seq, self._options.backoff[0], failure.reason)

    def _worth_another_try(self, error: Exception) -> bool:
        fault = self._store.fault(error) if self._context.store is not None else Fault.MESSAGE
        events.log("letter.failed", f"{type(error).__name__}: {error}", level="warning")
        if fault is Fault.AWAY:
            self._wait_for_store(error)
        return fault is not Fault.MESSAGE and not self._context.draining()

    @property
    def _letters_in_store(self) -> bool:
        return self._context.store is not None and self._options.dead_letter in (None, "store")

    def _bury_in_store(self, item: Item, failure: Failure) -> tuple[int, bytes]:
        transaction = self._connection.begin()
        try:
            if self._inbox and self._identify(item, again=True) and item.claim is not None:
                (decision,) = transaction.claim([item.claim])
                if decision.verdict is Verdict.DONE:
                    transaction.rollback()
                    return decision.outcome, decision.answer
                if decision.verdict is Verdict.RUN:
                    transaction.record([(item.claim, FAILED, b"FALSE")])
            transaction.bury(self._letter(item, failure))
            transaction.commit()
        except BaseException:
            self._roll_back(transaction)
            raise
        return FAILED, b"FALSE"

    def _bury_in_file(self, item: Item, failure: Failure) -> tuple[int, bytes]:
        if self._context.letters is None:
            raise LookupError("there is no place for dead letters")
        self._context.letters.bury(self._letter(item, failure))
        return FAILED, b"FALSE"

    def _letter(self, item: Item, failure: Failure) -> DeadLetter:
        message = item.message
        identity = item.claim.identity if item.claim is not None else None
        return DeadLetter(
            self._spec.job,
            message.body,
            failure.reason,
            trace=failure.trace,
            identity=identity,
            message_id=message.id,
            headers=message.headers,
            source=message.source,
            attempts=message.attempt,
            died_at=received_at(item.delivery, item.delivery.received_ns),
            size=len(message.body),
        )

    # --- the breaker, shared by the process's threads

    def _breaker_holds(self) -> bool:
        """Wait until a probe is due; True while the breaker is open."""
        with self._context.lock:
            opened, at = self._context.breaker.opened, self._context.breaker.probe_at
        if opened:
            self._context.wait(max(0.0, at - self._context.monotonic_ns() / NS))
        return bool(opened)

    def _breaker_takes(self, item: Item, failure: Failure, age: float, now: int) -> bool:
        """Count the failure; True when it is no fault of this message's and it is to be tried again."""
        with self._context.lock:
            was_open = self._context.breaker.opened
            opened = self._context.breaker.failed(item.delivery.seq.to_bytes(8, "big"), now / NS)
        if opened:
            reason = f"20 messages failed in a row, the last: {failure.reason}"
            events.log("breaker.opened", reason, level="error")
            self._context.pause(reason)
        return (was_open or opened) and not (self._source.answers and age > self._options.answer_within)

    def _succeeded(self) -> None:
        with self._context.lock:
            closed = self._context.breaker.succeeded()
        if closed:
            events.log("breaker.closed")
            self._context.resume()

    # --- small things

    def _item(self, delivery: Delivery) -> Item:
        source = self._source
        message = Message(
            delivery.body,
            id=f"{source.epoch:x}-{delivery.seq:x}",
            headers=delivery.headers or {},
            attempt=delivery.attempt,
            received_at=received_at(delivery, self._context.monotonic_ns()),
            source=source.name,
            extend=self._extend,
        )
        return Item(delivery, message)

    def _extend(self, seconds: float) -> None:
        self._context.board.extend(self._context.monotonic_ns() + int(seconds * NS))

    def _identify(self, item: Item, *, again: bool = False) -> bool:
        """Make the message's claim; False when its identity() raises, which is its failure."""
        if not self._inbox or item.claim is not None:
            return True
        identity = None
        try:
            identity = self._job.identity(item.message) if self._asks_identity else None
            item.claim = make_claim(item, self._source.epoch, identity)
        except BaseException as error:
            if again:  # its failure is known already: it is buried under its delivery id
                item.claim = make_claim(item, self._source.epoch, None)
                return True
            item.failure = failure_of(error)
            return False
        return True

    def _roll_back(self, transaction: Transaction) -> None:
        try:
            transaction.rollback()
        except Exception as error:
            events.log("store.rollback-failed", str(error), level="warning")

    def _say_replayed(self, group: Group) -> None:
        self._context.board.count("replays")
        reasons = [item.failure.reason for item in group.items if item.failure]
        events.log("batch.replayed", "; ".join(reasons[:3]), messages=len(group.items))

    @staticmethod
    def _any_failed(items: list[Item]) -> bool:
        return any(item.failure is not None for item in items)

    @property
    def _source(self) -> Source:
        assert self._source_or_none is not None
        return self._source_or_none

    @property
    def _store(self) -> Store:
        assert self._context.store is not None
        return self._context.store

    @property
    def _connection(self) -> Connection:
        assert self._context.connection is not None
        return self._context.connection


class HalvesNeeded(Exception):
    """handle_batch failed for several messages: nobody knows which of them is at fault."""
