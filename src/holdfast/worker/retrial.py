"""Another try of dead letters that an operator has marked. Doing it twice, or in two workers at once, has one effect.

Before a letter is tried it is dead again, in a transaction of its own: one that kills its worker is not tried by the next one unasked.
A letter leaves the store in the transaction that holds its effect. A letter in a file leaves after that; with a store the inbox tells
a second try that the first one has happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from holdfast.model.delivery import DONE
from holdfast.model.delivery_id import parse_delivery_id
from holdfast.model.giving_up import Failure
from holdfast.model.message import Message
from holdfast.model.replay import WEATHER
from holdfast.stores.base import Claim, Connection, DeadLetter, Decision, Letters, Transaction, Verdict
from holdfast.telemetry import events
from holdfast.worker.burial import MESSAGE_ID
from holdfast.worker.calls import Calls, failure_of
from holdfast.worker.engine_context import EngineContext
from holdfast.worker.item import CLASH, digest
from holdfast.worker.weather import Weather, roll_back, told

AT_ONCE = 50


class NotNow(Exception):
    """The letter stays marked: another transaction holds its identity, or the store has no time for it."""


class HasFailed(Exception):
    """The letter goes back to the dead."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Retrial:
    """Tries letters again, for one handler thread. `letters` are the files, or None where the letters lie in the store."""

    def __init__(
        self,
        job: str,
        calls: Calls,
        context: EngineContext,
        weather: Weather | None,
        letters: Any,
        inbox: bool,
        extend: Callable[[float], None],
    ) -> None:
        self._job = job
        self._calls = calls
        self._context = context
        self._weather = weather
        self._letters = letters
        self._inbox = inbox
        self._extend = extend

    def run(self) -> None:
        """Try every marked letter once; one that cannot be tried now stays marked."""
        tried: set[str] = set()
        while letters := [letter for letter in self._marked() if letter.id not in tried]:
            for letter in letters:
                if self._context.draining():
                    return
                tried.add(letter.id)
                self._try(letter)

    def _marked(self) -> Sequence[DeadLetter]:
        letters = self._lies_in()
        if letters is None:
            return ()
        try:
            return letters.marked(self._job, AT_ONCE)
        except Exception as error:
            events.log("letters.unread", told(error), level="error")
            return ()

    def _try(self, letter: DeadLetter) -> None:
        lies_in = self._lies_in()
        try:
            if lies_in is None or not lies_in.attempt(letter):
                return
            done = self._in_store(self._weather, letter) if self._weather is not None else self._in_file(letter)
        except HasFailed as failed:
            self._back_to_the_dead(letter, failed.failure)
        except Exception as error:
            events.log("letter.waits", told(error), level="warning", letter=letter.id)
            self._put_back(letter)
        else:
            if done:
                self._context.board.count("handled")
                events.log("letter.done", letter.reason, letter=letter.id)

    def _lies_in(self) -> Letters | None:
        store = self._context.store
        return self._letters if self._letters is not None or store is None else store.letters()

    def _put_back(self, letter: DeadLetter) -> None:
        """Marked as before; where even that cannot be written, the operator has to ask again."""
        letters = self._lies_in()
        try:
            if letters is not None:
                letters.put_back(letter)
        except Exception as error:
            events.log("letter.unmarked", told(error), level="error", letter=letter.id)

    def _in_file(self, letter: DeadLetter) -> bool:
        try:
            self._calls.letter(self._message(letter), None)
        except BaseException as error:
            raise HasFailed(failure_of(error)) from error
        return bool(self._letters.unbury(letter))

    def _in_store(self, weather: Weather, letter: DeadLetter) -> bool:
        """Handle in a transaction of its own; False when somebody had done it before."""
        message = self._message(letter)
        claim = self._claim(letter, message) if self._inbox else None
        transaction = weather.begin()
        try:
            done = self._run(weather, transaction, letter, message, claim)
            transaction.commit()
        except BaseException as error:
            roll_back(transaction)
            if isinstance(error, Exception) and not isinstance(error, HasFailed | NotNow):
                raise NotNow(told(error)) from error
            raise
        if self._letters is not None:
            self._letters.unbury(letter)
        return done

    def _run(self, weather: Weather, transaction: Transaction, letter: DeadLetter, message: Message, claim: Claim | None) -> bool:
        done_before = claim is not None and self._done_before(transaction, claim)
        if self._letters is None and not transaction.unbury(letter):
            return False
        if done_before:
            return False
        answer = self._handle(weather, transaction, message)
        if claim is not None:
            transaction.record([(claim, DONE, answer)])
        return True

    def _done_before(self, transaction: Transaction, claim: Claim) -> bool:
        """Whether the inbox knows of an effect; its FALSE for this letter is taken back."""
        decision: Decision = transaction.claim([claim])[0]
        if decision.verdict is Verdict.CLASH:
            raise HasFailed(CLASH)
        if decision.verdict is Verdict.BUSY:
            raise NotNow("another transaction holds its identity")
        if decision.verdict is Verdict.RUN:
            return False
        if decision.outcome == DONE:
            return True
        transaction.release([claim])
        transaction.claim([claim._replace(redelivered=False)])
        return False

    def _handle(self, weather: Weather, transaction: Transaction, message: Message) -> bytes:
        transaction.begin_message()
        try:
            answer = self._calls.letter(message, transaction.db)
        except BaseException as error:
            if weather.trouble(error) in WEATHER:
                raise NotNow(told(error)) from error
            raise HasFailed(failure_of(error)) from error
        broken = transaction.proof()
        if broken:
            raise HasFailed(Failure(broken))
        return answer

    def _back_to_the_dead(self, letter: DeadLetter, failure: Failure) -> None:
        """As it was, with the new reason and one attempt more."""
        events.log("letter.failed", failure.reason, level="warning", letter=letter.id, trace=failure.trace)
        self._context.board.count("failed")
        again = replace(letter, state="dead", reason=failure.reason, trace=failure.trace, attempts=letter.attempts + 1)
        try:
            if self._letters is not None:
                self._letters.bury(again)
            elif self._context.connection is not None:
                _exchange(self._context.connection, letter, again)
        except Exception as error:
            events.log("letter.waits", told(error), level="warning", letter=letter.id)

    def _claim(self, letter: DeadLetter, message: Message) -> Claim | None:
        """What it was buried under; for one that was given up before its identity was asked, that identity."""
        epoch, seq = parse_delivery_id(letter.message_id) or (0, 0)
        try:
            identity = letter.identity if letter.identity is not None else self._calls.identity_of(message)
        except BaseException as error:
            raise HasFailed(failure_of(error)) from error
        if identity is None:
            return Claim(epoch, seq, None, b"", True) if seq else None
        return Claim(epoch, seq, identity, digest(message.body), True)

    def _message(self, letter: DeadLetter) -> Message:
        return Message(
            letter.body,
            id=letter.headers.get(MESSAGE_ID) or letter.message_id,
            headers=letter.headers,
            attempt=letter.attempts + 1,
            received_at=letter.died_at,
            source=letter.source,
            extend=self._extend,
        )


def _exchange(connection: Connection, letter: DeadLetter, again: DeadLetter) -> None:
    transaction = connection.begin()
    try:
        if transaction.unbury(letter):
            transaction.bury(again)
            transaction.commit()
        else:
            transaction.rollback()
    except BaseException:
        roll_back(transaction)
        raise
