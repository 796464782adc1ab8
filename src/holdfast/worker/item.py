"""One message on its way through a handler thread, and what a handler may answer."""

from __future__ import annotations

import hashlib
import time
import traceback

from holdfast.model.delivery import Delivery
from holdfast.model.giving_up import Failure
from holdfast.model.message import Message, Reject, Retry
from holdfast.stores.base import Claim

LONGEST_ANSWER = 64 << 10


class Item:
    """A delivery, the message made of it, its claim, and, once known, its answer or its failure."""

    __slots__ = ("answer", "claim", "delivery", "failure", "message", "outcome", "unsure")

    def __init__(self, delivery: Delivery, message: Message) -> None:
        self.delivery = delivery
        self.message = message
        self.claim: Claim | None = None
        self.outcome = 0
        self.answer = b""
        self.failure: Failure | None = Failure(delivery.doom, final=True) if delivery.doom else None
        self.unsure = delivery.redelivered  # an earlier commit may have happened


def make_claim(item: Item, epoch: int, identity: str | bytes | None) -> Claim:
    """What the inbox is asked for this message."""
    raw = identity.encode() if isinstance(identity, str) else identity
    if raw is not None and not isinstance(raw, bytes):
        raise TypeError(f"identity() gave {type(identity).__name__}; give str, bytes or None")
    delivery = item.delivery
    digest = hashlib.blake2b(delivery.body, digest_size=16).digest() if raw is not None else b""
    return Claim(epoch, delivery.seq, raw, digest, item.unsure)


def encode_answer(answer: object) -> bytes:
    """None -> TRUE, str -> UTF-8, bytes as they are; TypeError or ValueError for anything else."""
    if answer is None:
        return b"TRUE"
    if isinstance(answer, str):
        answer = answer.encode()
    if not isinstance(answer, bytes):
        raise TypeError(f"the handler answered with {type(answer).__name__}; answer with None, str or bytes")
    if len(answer) > LONGEST_ANSWER:
        raise ValueError(f"the answer has {len(answer)} bytes; at most {LONGEST_ANSWER} can be stored beside the effect")
    return answer


def failure_of(error: BaseException) -> Failure:
    """What an exception from a handler means for its message."""
    if isinstance(error, Retry):
        return Failure(error.reason or "retry asked for", after=error.after)
    if isinstance(error, Reject):
        return Failure(error.reason or "rejected", final=True)
    text = "".join(traceback.format_exception(error))
    return Failure(f"{type(error).__name__}: {error}".rstrip(": "), trace=text[-16384:])


def received_at(delivery: Delivery, now_ns: int) -> float:
    """Wall clock time at which the message came in."""
    return time.time() - (now_ns - delivery.received_ns) / 1e9
