"""Dead letters: the message with its reason, and FALSE in the inbox, in one transaction; only then is it settled.

With `dead_letter = "state_dir"` the letter is a file, written and synced before the inbox row commits: a crash in between writes the
same file again. Without a store the file is all there is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.model.delivery import FAILED
from holdfast.model.delivery_id import delivery_id
from holdfast.model.giving_up import Failure
from holdfast.model.replay import Trouble
from holdfast.stores.base import Claim, DeadLetter, Transaction, Verdict
from holdfast.worker.item import Item
from holdfast.worker.weather import Undone, Weather, roll_back

FALSE = b"FALSE"
MESSAGE_ID = "message-id"  # the header of a letter that holds what its sender called the message
_UNKNOWN = Failure("unknown")


@dataclass(slots=True)
class Buried:
    """What became of messages that were given up."""

    dead: list[Item] = field(default_factory=list)  # a letter is stored
    known: list[Item] = field(default_factory=list)  # done before; outcome and answer are the stored ones
    busy: list[Item] = field(default_factory=list)  # held by another transaction just now
    clash: list[Item] = field(default_factory=list)  # their identity belongs to another body by now


class Burial:
    """Gives messages up, for one handler thread. `weather` is None without a store, `letters` where they lie in the store.

    With `send_to`, the URL of a place at a broker, they leave through the outbox instead.
    """

    def __init__(self, job: str, source: str, epoch: int, weather: Weather | None, letters: Any, inbox: bool, send_to: str = "") -> None:
        self._job = job
        self._source = source
        self._epoch = epoch
        self._weather = weather
        self._letters = letters
        self._inbox = inbox
        self._send_to = send_to

    def run(self, items: Sequence[Item]) -> Buried:
        """Bury these. Raises Undone when no letter is stored, or nobody knows whether they are."""
        if self._weather is None:
            self._write_files(items)
            return Buried(dead=list(items))
        transaction = self._weather.begin()
        try:
            buried = self._inside(transaction, items)
            if buried.dead:
                self._commit(transaction, buried)
            else:
                transaction.rollback()
        except Exception as error:
            roll_back(transaction)
            raise Undone(self._weather.trouble(error), error) from error
        except BaseException:
            roll_back(transaction)
            raise
        return buried

    def _inside(self, transaction: Transaction, items: Sequence[Item]) -> Buried:
        buried = self._ask_inbox(transaction, items)
        for item in buried.dead:
            letter = self.letter(item)
            if self._send_to:
                transaction.send_letter(letter, self._send_to)
            elif self._letters is None:
                transaction.bury(letter)
            else:
                self._write_file(letter)
        if self._inbox and buried.dead:
            transaction.record([(item.claim, FAILED, FALSE) for item in buried.dead if item.claim is not None])
        return buried

    def _ask_inbox(self, transaction: Transaction, items: Sequence[Item]) -> Buried:
        """Another delivery, or an earlier commit of ours, may have settled the matter meanwhile."""
        if not self._inbox:
            return Buried(dead=list(items))
        buried = Buried()
        claims: list[Claim] = [item.claim for item in items if item.claim is not None]
        for item, decision in zip(items, transaction.claim(claims), strict=True):
            if decision.verdict is Verdict.RUN:
                buried.dead.append(item)
            elif decision.verdict is Verdict.DONE:
                item.outcome, item.answer = decision.outcome, decision.answer
                buried.known.append(item)
            elif decision.verdict is Verdict.BUSY:
                buried.busy.append(item)
            else:
                buried.clash.append(item)
        return buried

    @staticmethod
    def _commit(transaction: Transaction, buried: Buried) -> None:
        try:
            transaction.commit()
        except Exception:
            for item in buried.dead:
                item.doubt()
            raise

    def _write_files(self, items: Sequence[Item]) -> None:
        try:
            for item in items:
                self._write_file(self.letter(item))
        except Exception as error:
            raise Undone(Trouble.REFUSED, error) from error

    def _write_file(self, letter: DeadLetter) -> None:
        """Under the delivery id: writing it again after a death makes no second letter."""
        letter.id = letter.message_id
        self._letters.bury(letter)

    def letter(self, item: Item) -> DeadLetter:
        """The message with everything needed to see why and to try it again."""
        delivery, failure = item.delivery, item.failure or _UNKNOWN
        return DeadLetter(
            self._job,
            delivery.body,
            failure.reason,
            trace=failure.trace,
            identity=item.claim.identity if item.claim is not None else None,
            message_id=delivery_id(self._epoch, delivery.seq),
            headers={**(delivery.headers or {}), **({MESSAGE_ID: delivery.identity} if delivery.identity else {})},
            source=self._source,
            attempts=delivery.attempt,
            died_at=time.time(),
            size=len(delivery.body),
        )
