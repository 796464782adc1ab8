"""Calling what the user wrote: with the board telling since when, with or without `db`, and with its answer made into bytes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.model.board import ThreadBoard
from holdfast.model.giving_up import Failure
from holdfast.model.job import Job
from holdfast.model.message import Message, Reject, Retry
from holdfast.worker.item import Item, MessageMaker, as_identity
from holdfast.worker.trace import reason_of, trace_of

LONGEST_ANSWER = 64 << 10
LONGEST_REASON = 1000
LONGEST_TRACE = 16 << 10
_TRUE = b"TRUE"


class Calls:
    """The user's methods of one job instance, on its thread."""

    def __init__(
        self,
        job: Job,
        board: ThreadBoard,
        maker: MessageMaker,
        timeout: float,
        stored: bool,
        monotonic_ns: Callable[[], int],
    ) -> None:
        self.batch = getattr(job, "handle_batch", None) is not None
        self._work: Callable[..., Any] = getattr(job, "handle_batch" if self.batch else "handle", None) or _nothing_to_call
        self._takes_db = takes_db(self._work)
        self._identity = job.identity if type(job).identity is not Job.identity else None
        self._board = board
        self._make = maker.make
        self._timeout_ns = int(timeout * 1e9)
        self._longest = LONGEST_ANSWER if stored else None
        self._monotonic_ns = monotonic_ns

    def one(self, item: Item, db: Any, now_ns: int) -> bytes:
        """Handle one message; its answer. Raises what the handler raises, and TypeError or ValueError for what is no answer."""
        message = item.message or self._make(item.delivery)
        board = self._board
        board.begin(item.delivery.mark or item.delivery.seq, now_ns, now_ns + self._timeout_ns)
        try:
            answer = self._work(message, db) if self._takes_db else self._work(message)
        finally:
            board.end()
        return _TRUE if answer is None else self._bytes(answer)

    def many(self, items: Sequence[Item], db: Any) -> None:
        """Handle messages together: each item gets its answer, or its failure where the list holds one.

        Raises what handle_batch raises, and ValueError or TypeError for a list that does not fit.
        """
        messages = [item.message or self._make(item.delivery) for item in items]
        now = self._monotonic_ns()
        self._board.begin_many([item.delivery.mark or item.delivery.seq for item in items], now, now + self._timeout_ns)
        try:
            answers = self._work(messages, db) if self._takes_db else self._work(messages)
        finally:
            self._board.end()
        if answers is None:
            for item in items:
                item.answer = _TRUE
        else:
            self._share_out(items, answers)

    def letter(self, message: Message, db: Any) -> bytes:
        """Handle the message of a dead letter; as `one`. No ingress knows it, so the board shows sequence 0."""
        now = self._monotonic_ns()
        self._board.begin(0, now, now + self._timeout_ns)
        work: Any = [message] if self.batch else message
        try:
            answer = self._work(work, db) if self._takes_db else self._work(work)
        finally:
            self._board.end()
        if self.batch and answer is not None:
            _check_length(answer, 1)
            answer = answer[0]
        if isinstance(answer, BaseException):
            raise answer
        return _TRUE if answer is None else self._bytes(answer)

    def identify(self, item: Item, epoch: int) -> None:
        """Make the item's claim. What identity() raises is the item's failure, which is claimed by its delivery id."""
        if self._identity is None:
            self.claim(item, epoch)
            return
        now = self._monotonic_ns()
        self._board.begin(item.delivery.mark or item.delivery.seq, now, now + self._timeout_ns)
        try:
            item.message = self._make(item.delivery)
            identity = as_identity(self._identity(item.message))
            if identity is None:
                item.claim_by_delivery(epoch)
            else:
                item.claim_by_identity(epoch, identity)
        except BaseException as error:
            item.claim_by_delivery(epoch)
            item.failure = failure_of(error)
        finally:
            self._board.end()

    def claim(self, item: Item, epoch: int) -> None:
        """Make the item's claim without asking the application."""
        if self._identity is None and item.delivery.identity:
            item.claim_by_identity(epoch, item.delivery.identity.encode())
        else:
            item.claim_by_delivery(epoch)

    def identity_of(self, message: Message) -> bytes | None:
        """What identity() says of the message of a dead letter; raises what it raises, and TypeError for what is no identity."""
        if self._identity is None:
            return None
        now = self._monotonic_ns()
        self._board.begin(0, now, now + self._timeout_ns)
        try:
            return as_identity(self._identity(message))
        finally:
            self._board.end()

    def _share_out(self, items: Sequence[Item], answers: Any) -> None:
        _check_length(answers, len(items))
        for item, answer in zip(items, answers, strict=True):
            if answer is None:
                item.answer = _TRUE
                continue
            try:
                if isinstance(answer, BaseException):
                    item.failure = failure_of(answer)
                else:
                    item.answer = self._bytes(answer)
            except (TypeError, ValueError) as error:
                item.failure = failure_of(error)

    def _bytes(self, answer: object) -> bytes:
        if isinstance(answer, str):
            answer = answer.encode()
        if not isinstance(answer, bytes):
            raise TypeError(f"the handler answered with {type(answer).__name__}; answer with None, str or bytes")
        if self._longest is not None and len(answer) > self._longest:
            raise ValueError(f"the answer has {len(answer)} bytes; at most {self._longest} can be stored beside the effect")
        return answer


def takes_db(work: Callable[..., Any]) -> bool:
    """Whether the method has a place for `db` behind its message: a second parameter without default, or named db, or *args."""
    for parameter in [*inspect.signature(work).parameters.values()][1:]:
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
            return parameter.kind is parameter.VAR_POSITIONAL or parameter.name == "db" or parameter.default is parameter.empty
    return False


def failure_of(error: BaseException) -> Failure:
    """What an exception from the user's code means for its message."""
    try:
        if isinstance(error, Retry):
            return Failure(_text(error.reason) or "the handler asked for another try", after=_seconds(error.after))
        if isinstance(error, Reject):
            return Failure(_text(error.reason) or "the handler rejected it", final=True, event="message.rejected")
        return Failure(reason_of(error)[:LONGEST_REASON], trace=trace_of(error)[-LONGEST_TRACE:])
    except Exception as trouble:  # an exception of the user's that cannot even be told
        return Failure(f"{type(error).__name__}, which cannot be told: {type(trouble).__name__}", final=isinstance(error, Reject))


def _check_length(answers: object, length: int) -> None:
    if not isinstance(answers, list | tuple):
        raise TypeError(f"handle_batch answered with {type(answers).__name__}; answer with None or a list")
    if len(answers) != length:
        raise ValueError(f"handle_batch gave {len(answers)} answers to {length} messages; answer with None or as many answers")


def _text(reason: object) -> str:
    return str(reason)[:LONGEST_REASON]


def _seconds(after: object) -> float | None:
    """What a handler wrote into Retry(after=…), where it makes sense."""
    return float(after) if isinstance(after, int | float) and math.isfinite(after) and after >= 0 else None


def _nothing_to_call(*_arguments: object) -> None:
    raise TypeError("the job has neither handle() nor handle_batch()")
