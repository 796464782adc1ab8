"""One message on its way through a handler thread: what its handler gets, what the inbox is asked, what became of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from holdfast.model.delivery import DONE, Delivery
from holdfast.model.giving_up import Failure
from holdfast.model.message import Message
from holdfast.stores.base import Claim

CLASH = Failure("the same identity came before with another body", final=True, event="duplicate.clash")
_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})


class Item:
    """A delivery, its claim, and, once known, its answer or its failure."""

    __slots__ = ("answer", "claim", "delivery", "failure", "message", "outcome")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.message: Message | None = None  # made anew for every run: a handler may have changed its own
        self.claim: Claim | None = None
        self.outcome = DONE
        self.answer = b""
        self.failure: Failure | None = None

    @property
    def asked(self) -> bool:
        """Whether whoever gets this delivery next will look into the inbox for it."""
        return self.delivery.redelivered or self.delivery.attempt > 1

    @property
    def unsure(self) -> bool:
        """Whether a commit of ours may have happened that nobody else would look for."""
        return self.claim is not None and self.claim.redelivered and not self.asked

    def doubt(self) -> None:
        """A commit with this message in it has failed, and may have happened nevertheless."""
        if self.claim is not None:
            self.claim = self.claim._replace(redelivered=True)

    def claim_by_delivery(self, epoch: int) -> None:
        """Ask for the delivery id alone."""
        self.claim = Claim(epoch, self.delivery.seq, None, b"", self.asked)

    def claim_by_identity(self, epoch: int, identity: bytes) -> None:
        """Ask for what identity() gave."""
        self.claim = Claim(epoch, self.delivery.seq, identity, digest(self.delivery.body), self.asked)


def as_identity(identity: object) -> bytes | None:
    """What identity() gave, as bytes; TypeError when it is neither text nor bytes nor None."""
    if isinstance(identity, str):
        return identity.encode()
    if identity is None or isinstance(identity, bytes):
        return identity
    raise TypeError(f"identity() gave {type(identity).__name__}; give str, bytes or None")


def digest(body: bytes) -> bytes:
    """By which the inbox tells two bodies of one identity apart."""
    return hashlib.blake2b(body, digest_size=16).digest()


class MessageMaker:
    """Makes what handlers get."""

    def __init__(self, epoch: int, source: str, extend: Callable[[float], None], monotonic_ns: Callable[[], int]) -> None:
        self._prefix = f"{epoch:x}-"
        self._source = source
        self._extend = extend
        self._monotonic_ns = monotonic_ns
        self._offset = 0.0

    def look_at_the_clock(self) -> None:
        """Once a batch: how far wall clock time is from monotonic time, which may have been set since."""
        self._offset = time.time() - self._monotonic_ns() / 1e9

    def wall(self, monotonic_ns: int) -> float:
        """Seconds since the epoch."""
        return self._offset + monotonic_ns / 1e9

    def make(self, delivery: Delivery) -> Message:
        return Message(
            delivery.body,
            id=delivery.identity or f"{self._prefix}{delivery.seq:x}",
            headers=delivery.headers or _NO_HEADERS,
            attempt=delivery.attempt,
            received_at=self._offset + delivery.received_ns / 1e9,
            source=self._source,
            extend=self._extend,
        )
