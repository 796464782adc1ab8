"""What happens to the messages of one handler thread: begin, inbox, handle, record, commit, settle. That order is law (G3, G4).

Deliveries wait in groups. A group is tried in one transaction (`batch`). When that is undone, `model.replay` says which groups take its
place; messages that failed are tried later through the source, or buried (`burial`), or, when everything fails, held back by the
breaker. Every message ends settled, handed to the source for a later try, or given back because the process drains.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

from holdfast.model.delivery import DONE, FAILED, Delivery
from holdfast.model.delivery_id import delivery_id
from holdfast.model.giving_up import Failure, delay, next_try
from holdfast.model.job import Job
from holdfast.model.replay import WEATHER, Group, Trouble, Way, next_groups
from holdfast.model.share import fitting
from holdfast.model.spec import WorkerSpec
from holdfast.sources.base import Settlement
from holdfast.telemetry import events
from holdfast.worker.batch import Batch, Outcome, Unstored, tell_clash
from holdfast.worker.burial import FALSE, Burial
from holdfast.worker.calls import Calls, failure_of
from holdfast.worker.cleaning import Cleaning
from holdfast.worker.engine_context import EngineContext
from holdfast.worker.gate import Gate
from holdfast.worker.item import CLASH, Item, MessageMaker
from holdfast.worker.retrial import Retrial
from holdfast.worker.weather import Undone, Weather

NS = 1_000_000_000
_GONE = frozenset({Trouble.LOST, Trouble.AWAY})


class Engine:
    """One per handler thread; used by that thread only."""

    def __init__(self, job: Job, spec: WorkerSpec, context: EngineContext, *, draw: Callable[[], float] = random.random) -> None:
        if context.source is None:
            raise ValueError("an engine needs a source")
        self._source = context.source
        self._options = spec.options
        self._context = context
        self._board = context.board
        self._draw = draw
        self._gate = Gate(context)
        self._queue: deque[Group[Item]] = deque()
        self._inbox = spec.options.inbox and context.store is not None
        self._most = self._fit = spec.options.batch
        self._assemble(job, spec, context)

    def _assemble(self, job: Job, spec: WorkerSpec, context: EngineContext) -> None:
        options, epoch, name = spec.options, self._source.epoch, self._source.name
        self._maker = MessageMaker(epoch, name, self._extend, context.monotonic_ns)
        self._calls = Calls(job, self._board, self._maker, options.timeout, context.store is not None, context.monotonic_ns)
        self._weather: Weather | None = None
        self._batch: Batch | Unstored = Unstored(self._calls, context, self._settle)
        if context.store is not None and context.connection is not None:
            self._weather = Weather(context.store, context.connection, context, self._draw)
            self._batch = Batch(self._calls, self._weather, context, options.batch_age, self._inbox)
        files = None if self._weather is not None and options.dead_letter in (None, "store") else context.letters
        send_to = options.dead_letter if options.dead_letter and "://" in options.dead_letter else ""
        self._burial = Burial(spec.job, name, epoch, self._weather, files, self._inbox, send_to)
        self._cleaning = Cleaning(context.store if self._inbox else None, options.inbox_keep)
        self._retrial = Retrial(spec.job, self._calls, context, self._weather, files, self._inbox, self._extend)

    # The boundary with the thread

    def process(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Handle, commit and settle these; returns those that were not begun, because the process drains."""
        self._context.fault("after-take")
        self._open(deliveries)
        while self._queue:
            if self._queue[0].way is Way.BURIAL:
                self._bury(self._queue.popleft())
            elif self._context.draining():
                return self._leave()
            elif self._gate.opened:
                self._probe()
            else:
                self._try(self._next())
        self._gate.let_go()
        self._cleaning.after(len(deliveries))
        return []

    def retry_letters(self) -> None:
        """Try the dead letters again that an operator has marked; and since nobody waits for that, clean the inbox a little."""
        self._retrial.run()
        self._cleaning.step()

    def close(self) -> None:
        """Nothing is held between two calls of `process`; the connection is the thread's to close."""
        self._queue.clear()

    def _open(self, deliveries: Sequence[Delivery]) -> None:
        """Into groups: what is not to be handled any more goes to its burial, the rest is tried together."""
        self._maker.look_at_the_clock()
        epoch = self._source.epoch
        items = [Item(delivery) for delivery in deliveries]
        self._queue.append(Group([item for item in items if not item.delivery.doom]))
        doomed = [item for item in items if item.delivery.doom]
        for item in doomed:
            # Its identity() is not asked: that may be what killed its workers.
            self._calls.claim(item, epoch)
            item.doubt()
            item.failure = Failure(item.delivery.doom, final=True)
        failed = self._identify(self._queue[0].items, epoch) if self._inbox else []
        if failed:
            self._queue[0].items = [item for item in self._queue[0].items if item.failure is None]
        if not self._queue[0].items:
            self._queue.clear()
        self._give_up(doomed)
        if failed:
            self._conclude(failed, in_a_row=True)

    def _identify(self, items: list[Item], epoch: int) -> list[Item]:
        """Make each message's claim; returns those whose identity() failed."""
        for item in items:
            self._calls.identify(item, epoch)
        return [item for item in items if item.failure is not None]

    def _leave(self) -> list[Delivery]:
        """What was not begun. A message whose commit may have happened goes back as a try, so that the inbox is asked for it."""
        items = [item for group in self._queue for item in group.items]
        self._queue.clear()
        for item in items:
            if item.unsure:
                self._source.retry(item.delivery.seq, 0.0, "the process drained before it was known whether its commit had happened")
        return [item.delivery for item in items if not item.unsure]

    # One group

    def _next(self) -> Group[Item]:
        """The next group, cut to what fits into one transaction."""
        group = self._queue.popleft()
        if len(group.items) > self._fit:
            self._queue.appendleft(Group(group.items[self._fit :], group.way, group.replays, group.asked))
            group = Group(group.items[: self._fit], group.way, group.replays, group.asked)
        return group

    def _try(self, group: Group[Item]) -> None:
        """Run the group; settle what is done; put what is left back into the queue."""
        if group.asked > 1 and self._weather is not None and not self._weather.let_finish(group.asked):
            self._queue.appendleft(group)
            return
        try:
            outcome = self._batch.run(group)
        except Undone as undone:
            outcome = Outcome()
            self._replay(group, undone)
        else:
            if self._weather is not None:
                size, late = len(group.items), len(outcome.late)
                self._fit = fitting(self._fit, self._most, size=size, late=late, brisk=outcome.brisk)
                self._settle(outcome.done, outcome.known)
            self._requeue(group, outcome)
        failed = [item for item in group.items if item.failure is not None]
        if failed:
            self._conclude(failed, in_a_row=not outcome.done)

    def _requeue(self, group: Group[Item], outcome: Outcome) -> None:
        if outcome.late:
            self._queue.appendleft(Group(outcome.late, group.way, group.replays))
        if outcome.busy:
            moved = len(outcome.busy) < len(group.items)
            self._queue.append(Group(outcome.busy, group.way, group.replays, 1 if moved else group.asked + 1))

    def _replay(self, group: Group[Item], undone: Undone) -> None:
        """Put the groups into the queue that take this one's place."""
        for item in group.items:
            item.message = None
            if undone.trouble in WEATHER:
                item.failure = None
        alone = group.way is Way.ALONE
        self._board.count("replays")
        events.log("batch.replayed", undone.reason, messages=len(group.items), why=undone.trouble.value)
        if alone and undone.trouble is not Trouble.AWAY and self._weather is not None and self._weather.answers():
            self._blame(group, undone)
            return
        if alone or undone.trouble in _GONE:
            weathered = self._weather is not None and self._weather.sit_out(undone.reason, group.replays)
            if alone or undone.trouble is Trouble.AWAY or not weathered:
                group.replays += 1
                self._queue.appendleft(group)
                return
        elif undone.trouble is Trouble.TRANSIENT and self._weather is not None:
            self._weather.let_pass(group.replays)
        failed = [item for item in group.items if item.failure is not None]
        culprit = undone.culprit if isinstance(undone.culprit, Item) else None
        self._queue.extendleft(reversed(next_groups(group, undone.trouble, failed, culprit, batch=self._calls.batch)))

    def _blame(self, group: Group[Item], undone: Undone) -> None:
        """The store is well, and the message was alone: it answers for what the store said."""
        for item in group.items:
            item.failure = failure_of(undone.cause) if undone.cause is not None else Failure(undone.reason)

    # After the commit

    def _settle(self, done: Sequence[Item], known: Sequence[Item]) -> None:
        """Tell the source, then count."""
        if not done and not known:
            return
        settlements = [Settlement(item.delivery.seq, DONE, item.answer) for item in done]
        if known:
            settlements += [Settlement(item.delivery.seq, item.outcome, item.answer) for item in known]
        self._source.settle(settlements)
        self._context.fault("after-settle")
        now = self._context.monotonic_ns()
        board = self._board
        if done:
            board.count("handled", len(done))
            board.count("batches")
            self._gate.succeeded()
        if known:
            board.count("duplicates", len(known))
        board.settled(len(settlements), [now - item.delivery.received_ns for item in (*done, *known)], now)

    # What failed

    def _conclude(self, failed: list[Item], *, in_a_row: bool) -> None:
        """Each failed message gets another try through the source, or is given up, or is held back while the breaker is open.

        `in_a_row`: none of their group succeeded.
        """
        now = self._context.monotonic_ns()
        for item in failed:
            self._note(item)
            if in_a_row and item.failure is not None and not item.failure.final:
                self._gate.failed(item.delivery.seq, item.failure.reason, now)
        held = [item for item in failed if self._is_held(item, now)]
        for item in held:
            item.failure = item.message = None
        self._queue.extend(Group([item], Way.ALONE) for item in held)
        if held:
            self._gate.shut()
        self._give_up([item for item in failed if item.failure is not None and not self._try_later(item, now)])

    def _note(self, item: Item) -> None:
        failure = item.failure
        if failure is None:
            return
        if failure is CLASH:
            tell_clash(item, self._source.epoch)
        else:
            level = "info" if failure.final else "warning"
            events.log(failure.event, failure.reason, level=level, trace=failure.trace, **self._about(item))

    def _is_held(self, item: Item, now_ns: int) -> bool:
        """While everything fails nothing is given up, but no client waits longer than `answer_within`."""
        return self._gate.opened and item.failure is not None and not item.failure.final and not self._expired(item, now_ns)

    def _expired(self, item: Item, now_ns: int) -> bool:
        return self._source.answers and now_ns - item.delivery.received_ns >= self._options.answer_within * NS

    def _try_later(self, item: Item, now_ns: int) -> bool:
        """Hand it to the source for another try; False when there is none left."""
        failure, delivery = item.failure or CLASH, item.delivery
        self._board.count("rejected" if failure.event == "message.rejected" else "failed")
        age = (now_ns - delivery.received_ns) / NS
        wait = next_try(failure, delivery.attempt, self._options, self._source.answers, age, self._draw())
        if wait is None:
            return False
        self._board.count("retried")
        self._source.retry(delivery.seq, wait, failure.reason)
        return True

    def _give_up(self, items: list[Item]) -> None:
        for at in range(0, len(items), self._most):
            self._queue.appendleft(Group(items[at : at + self._most], Way.BURIAL))

    def _bury(self, group: Group[Item]) -> None:
        """Store dead letters, then settle; what cannot be stored stays unsettled."""
        try:
            buried = self._burial.run(group.items)
        except Undone as undone:
            self._bury_later(group, undone)
            return
        if buried.dead:
            self._context.fault("after-commit")
        for item in buried.dead:
            self._board.count("dead")
            events.log("message.dead", item.failure.reason if item.failure else "", level="error", **self._about(item))
            item.outcome, item.answer = FAILED, FALSE
        self._tell_the_end(buried.dead, buried.known)
        for item in buried.clash:
            tell_clash(item, self._source.epoch)
        self._give_up(buried.clash)
        if buried.busy:
            self._bury_busy(Group(buried.busy, Way.BURIAL, group.replays, group.asked + 1))

    def _tell_the_end(self, dead: list[Item], known: list[Item]) -> None:
        if not dead and not known:
            return
        self._source.settle([Settlement(item.delivery.seq, item.outcome, item.answer) for item in (*dead, *known)])
        self._context.fault("after-settle")
        now = self._context.monotonic_ns()
        if known:
            self._board.count("duplicates", len(known))
        self._board.settled(len(dead) + len(known), [now - item.delivery.received_ns for item in (*dead, *known)], now)

    def _bury_busy(self, group: Group[Item]) -> None:
        if self._weather is not None and self._weather.let_finish(group.asked):
            self._queue.appendleft(group)
        else:
            self._leave_unsettled(group, "another transaction holds its identity")

    def _bury_later(self, group: Group[Item], undone: Undone) -> None:
        """Weather is waited for; a letter that the store does not take is tried again with its message."""
        events.log("letter.unstored", undone.reason, level="error", messages=len(group.items))
        if undone.trouble in _GONE and self._weather is not None:
            self._weather.sit_out(undone.reason, group.replays)
        elif undone.trouble is Trouble.TRANSIENT and self._weather is not None:
            self._weather.let_pass(group.replays)
        groups = [] if self._context.draining() else next_groups(group, undone.trouble, [])
        self._queue.extendleft(reversed(groups))
        if not groups:
            self._leave_unsettled(group, undone.reason)

    def _leave_unsettled(self, group: Group[Item], reason: str) -> None:
        for item in group.items:
            wait = delay(item.delivery.attempt, self._options.backoff, self._draw())
            self._source.retry(item.delivery.seq, wait, f"its dead letter is not stored: {reason}")

    # While the breaker is open

    def _probe(self) -> None:
        """Try one message when the breaker gives leave, or when its client can wait no longer."""
        self._queue = deque(Group([item], Way.ALONE, asked=group.asked) for group in self._queue for item in group.items)
        now = self._context.monotonic_ns()
        expired = next((group for group in self._queue if self._expired(group.items[0], now)), None)
        if expired is not None:
            self._queue.remove(expired)
            self._try(expired)
            return
        wait = self._gate.ask(now)
        if wait:
            self._context.wait(min(wait, self._patience(now)))
            return
        try:
            self._try(self._queue.popleft())
        finally:
            self._gate.probed()

    def _patience(self, now_ns: int) -> float:
        """Seconds until the first client can wait no longer."""
        if not self._source.answers:
            return float("inf")
        oldest = min(group.items[0].delivery.received_ns for group in self._queue)
        return max(0.0, self._options.answer_within - (now_ns - oldest) / NS)

    # Small things

    def _extend(self, seconds: float) -> None:
        self._board.extend(self._context.monotonic_ns() + int(seconds * NS))

    def _about(self, item: Item) -> dict[str, object]:
        return {"message": delivery_id(self._source.epoch, item.delivery.seq), "attempt": item.delivery.attempt}
