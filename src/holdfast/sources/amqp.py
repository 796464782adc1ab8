"""The source behind a RabbitMQ queue (AMQP 0-9-1): a worker's own consumer, acknowledged after the commit.

Tags belong to a channel. When it ends (connection cut, queue deleted, broker gone) the broker has taken back all that it had sent, so
everything in hand is void here: nothing of it is acknowledged, and what was not begun is forgotten. What was begun is finished; it
comes again, and the inbox knows it.

A message that is to be tried again is published to a rung (`model.ladder`), confirmed, and only then acknowledged.
"""

from __future__ import annotations

import hashlib
import itertools
import time
import uuid
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import msgspec
import pika.exceptions

from holdfast.errors import AppError
from holdfast.model.acks import Acks
from holdfast.model.blame import Suspect
from holdfast.model.broker import QueueAddress
from holdfast.model.delivery import Delivery
from holdfast.model.ladder import ATTEMPT, LONGEST_REASON, REASON, attempt, rung, rung_arguments, rung_queue
from holdfast.sources.amqp_declaring import declarations, refusal
from holdfast.sources.amqp_link import Connection, Link, told, unavailable
from holdfast.sources.amqp_loop import NestedLoop
from holdfast.sources.amqp_publisher import Failure, Publication, Publisher
from holdfast.sources.base import Settlement
from holdfast.telemetry import events

MOST_PREFETCHED = 2000
Alone = Callable[[Delivery], object]
_AGAIN = 1.0  # seconds before a rung, or a channel that was closed over a queue, is tried again
_MARK_BITS = 62


@dataclass(slots=True)
class Held:
    """A message in our hands, and what it takes to publish it again."""

    tag: int
    delivery: Delivery
    properties: Any


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much a worker holds. `batch` messages for each of `threads` and one batch more, within `size` bytes."""

    batch: int
    threads: int
    size: int
    largest: int  # bytes of one message; a larger one becomes a dead letter
    deaths: int  # of workers that a message was alone with; with the last it becomes a dead letter
    ordered: bool = False  # what is tried again, or given back, stays here: the broker would let later ones overtake it


class AmqpSource:
    """See `holdfast.sources.base.OpenSource`. `lost` is called when what waits for a thread is void, `alone` with each suspect."""

    answers = False

    def __init__(self, address: QueueAddress, epoch: int, name: str, bounds: Bounds, lost: Callable[[], object], alone: Alone) -> None:
        self.epoch = epoch
        self.name = f"{address.broker.shown}?queue={address.queue}"
        self._address = address
        self._bounds = bounds
        self._on_lost, self._alone = lost, alone
        self._suspects: dict[int, Suspect] = {}
        self._loop = NestedLoop()
        self._link = Link(self._loop, address.broker, name, self._up, self._down)
        self._publisher = Publisher(self._loop, address.broker, f"{name} (retries)")
        self._channel: Any = None  # with the queue declared
        self._coming: Any = None  # being opened, or its queue being declared
        self._consumer = ""  # its tag; "" while nothing is consumed
        self._wanted = False
        self._closing = False
        self._acks = Acks()
        self._held: dict[int, Held] = {}
        self._bytes = 0
        self._mean = 0.0
        self._full = False
        self._arrived: list[Delivery] = []
        self._numbers = itertools.count(1)
        self._failure: str | AppError = ""
        self._unnamed = False
        self._kept: list[Delivery] = []  # of an ordered job, until it opens again or its channel is closed
        self.void_below = 0  # lower numbers are of a channel that is gone

    # For the one who starts it

    def connect(self, until: float, peer: int = -1) -> None:
        """Be connected, with the queue declared, before the monotonic time `until`, and while somebody is at the other end of `peer`.

        UnavailableError when the broker is not to be had; AppError when it refuses what was asked.
        """
        self._link.open()
        self._loop.wait(until, lambda: self._channel is not None or isinstance(self._failure, AppError) or self._link.refused, peer)
        if isinstance(self._failure, AppError):
            raise self._failure
        if self._channel is not None:
            return
        raise unavailable(self._address.broker, self._link.trouble or str(self._failure) or "it does not answer")

    # For the I/O loop

    def fileno(self) -> int:
        return self._loop.fileno()

    def wants_write(self) -> bool:
        return False

    def due(self) -> float | None:
        return self._loop.due()

    def receive(self) -> Sequence[Delivery]:
        self._loop.turn()
        arrived, self._arrived = self._arrived, []
        return arrived

    def flush(self) -> None:
        """pika watches for that itself."""

    def open(self) -> None:
        """Consume, now and after each reconnect."""
        self._wanted = True
        if self._kept:
            kept, self._kept = sorted(self._kept, key=lambda delivery: delivery.seq), []
            self._loop.call_later(0.0, lambda: self._arrived.extend(one for one in kept if one.seq in self._held))
        self._consume()

    def shut(self) -> None:
        """Consume no more; what has come stays ours until it is settled or given back."""
        self._wanted = False
        self._cancel()

    def blame(self, suspects: Sequence[Suspect]) -> None:
        self._suspects.update((suspect.mark, suspect) for suspect in suspects)

    def finish(self, until: float) -> None:
        """Let every outcome out: retries confirmed, acknowledgements taken by the broker."""
        self._closing = True
        self._loop.wait(until, lambda: not self._publisher.pending)
        if self._channel is not None and self._channel.is_open:
            self._channel.close()  # it is answered after everything that was sent before it
            self._loop.wait(until, lambda: self._channel is None)
        self._publisher.close()
        self._link.close()
        self._loop.wait(until, lambda: self._link.gone and self._publisher.gone)

    def close(self) -> None:
        self._loop.close()

    # From any thread

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            seqs = [item.seq for item in settlements]
            self._loop.add_callback(lambda: self._acknowledge(seqs))

    def retry(self, seq: int, delay: float, reason: str) -> None:
        self._loop.add_callback(lambda: self._put_off(seq, delay, reason))

    def give_back(self, seqs: Sequence[int]) -> None:
        if seqs:
            self._loop.add_callback(lambda: self._return(seqs))

    # A channel and its queue

    def _up(self, connection: Connection) -> None:
        self._open_channel(connection)

    def _open_channel(self, connection: Connection) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        self._coming = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(self._on_cancelled)
        self._declare(channel, declarations(self._address))

    def _declare(self, channel: Any, steps: Sequence[Callable[[Any, Any], None]]) -> None:
        """One after the other, each when the broker has taken the one before."""
        if steps:
            steps[0](channel, lambda _frame: self._declare(channel, steps[1:]))
            return
        self._coming, self._channel, self._failure = None, channel, ""
        self._consume()

    def _on_channel_closed(self, channel: Any, error: BaseException) -> None:
        if channel not in (self._channel, self._coming):
            return
        self._forget()
        connection = channel.connection
        if self._closing or not connection.is_open:
            return
        if not isinstance(error, pika.exceptions.ChannelClosedByClient):
            self._failure = refusal(error) or told(error)
            events.log("source.channel-closed", f"{self.name}: {told(error)}", level="error")
        self._loop.call_later(_AGAIN, lambda: self._open_channel(connection))

    def _on_cancelled(self, _frame: Any) -> None:
        """By the broker: the queue was deleted, or its leader has moved."""
        events.log("source.cancelled", f"{self.name}: the broker has cancelled the consumer", level="warning")
        if self._channel is not None and self._channel.is_open:
            self._channel.close(0, "consumer cancelled")

    def _down(self, reason: str) -> None:
        self._failure = reason
        self._forget()

    def _forget(self) -> None:
        """The channel is gone, and with it the right to acknowledge what came on it."""
        self._channel = self._coming = None
        self._consumer = ""
        self._acks = Acks()
        self._held.clear()
        self._arrived.clear()
        self._kept.clear()
        self.void_below = next(self._numbers)
        self._bytes, self._full = 0, False
        self._on_lost()

    # Consuming

    def _consume(self) -> None:
        if self._channel is None or not self._channel.is_open or not self._wanted or self._full or self._consumer or self._closing:
            return
        self._channel.basic_qos(prefetch_count=self._prefetch())
        self._consumer = self._channel.basic_consume(self._address.queue, self._on_message)

    def _prefetch(self) -> int:
        bounds = self._bounds
        useful = MOST_PREFETCHED if bounds.ordered else min(MOST_PREFETCHED, bounds.batch * (bounds.threads + 1))
        most = self._address.prefetch or useful
        return max(1, min(most, int(bounds.size / self._mean) if self._mean else most))

    def _cancel(self) -> None:
        if self._consumer and self._channel is not None and self._channel.is_open:
            self._channel.basic_cancel(self._consumer)
        self._consumer = ""

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        tag = method.delivery_tag
        identity = self._identity(properties)
        delivery = Delivery(
            next(self._numbers),
            body,
            time.monotonic_ns(),
            attempt=attempt(properties.headers),
            redelivered=bool(method.redelivered),
            headers=_headers(method, properties),
            identity=identity,
            mark=mark(identity, body),
        )
        suspect = self._suspects.get(delivery.mark) if self._suspects else None
        doom = suspect.doom(self._bounds.deaths) if suspect is not None else ""
        if len(body) > self._bounds.largest:
            doom = f"its {len(body)} bytes are more than max_message"
        if doom:
            delivery = msgspec.structs.replace(delivery, doom=doom)
        self._acks.delivered(tag)
        self._held[delivery.seq] = Held(tag, delivery, properties)
        if suspect is not None and self._wanted and not doom:
            self._alone(delivery)
        else:
            self._arrived.append(delivery)
        self._bytes += len(body)
        self._mean += (len(body) - self._mean) / 100
        if self._bytes > self._bounds.size and not self._full:
            self._full = True
            self._cancel()

    def _identity(self, properties: Any) -> str:
        wanted = self._address.identity
        header = wanted.removeprefix("header:") if wanted.startswith("header:") else ""
        found = (properties.headers or {}).get(header) if header else properties.message_id
        if found is None or found == "":
            if wanted and not self._unnamed:
                self._unnamed = True
                events.log("message.unnamed", f"{self.name}: messages without {wanted} come; they are at-least-once", level="warning")
            return ""
        return str(found)

    # Outcomes

    def _take(self, seq: int) -> Held | None:
        held = self._held.pop(seq, None)
        if held is not None:
            self._bytes -= len(held.delivery.body)
            if self._full and self._bytes <= self._bounds.size // 2:
                self._full = False
                self._consume()
        return held

    def _acknowledge(self, seqs: Sequence[int]) -> None:
        tags = [held.tag for seq in seqs if (held := self._take(seq)) is not None]
        if self._channel is not None and self._channel.is_open:
            for tag, multiple in self._acks.settled(tags):
                self._channel.basic_ack(tag, multiple)

    def _return(self, seqs: Sequence[int]) -> None:
        if self._bounds.ordered:
            self._kept += [self._held[seq].delivery for seq in seqs if seq in self._held]
            return
        for seq in seqs:
            held = self._take(seq)
            if held is not None and self._acks.left(held.tag) and self._channel is not None and self._channel.is_open:
                self._channel.basic_nack(held.tag, requeue=True)

    def _put_off(self, seq: int, delay: float, reason: str) -> None:
        held = self._held.get(seq)
        if held is None:
            return
        if self._bounds.ordered:
            held.delivery = msgspec.structs.replace(held.delivery, attempt=held.delivery.attempt + 1)
            self._loop.call_later(max(0.0, delay), lambda: self._come_again(seq, held))
            return
        if delay <= 0:
            self._return([seq])
            return
        seconds, properties = rung(delay), copy(held.properties)
        tried = {ATTEMPT: held.delivery.attempt + 1, REASON: reason[:LONGEST_REASON]}
        properties.headers = {name: value for name, value in (held.properties.headers or {}).items() if name != "CC"} | tried  # copies went
        properties.message_id = held.properties.message_id or f"holdfast-{uuid.uuid4().hex}"
        properties.expiration = None
        queue = self._address.queue
        where = rung_queue(queue, seconds)
        publication = Publication("", where, held.delivery.body, properties, where, rung_arguments(queue, seconds))
        self._publish(seq, held, publication)

    def _come_again(self, seq: int, held: Held) -> None:
        if self._held.get(seq) is held:
            self._arrived.append(held.delivery)

    def _publish(self, seq: int, held: Held, publication: Publication) -> None:
        def done(failure: Failure | None) -> None:
            if self._held.get(seq) is not held:
                return  # void since
            if failure is None:
                self._acknowledge([seq])
            elif not self._closing:
                events.log("retry.unpublished", f"{publication.key}: {failure.reason}", level="warning")
                self._loop.call_later(_AGAIN, lambda: self._publish_again(seq, held, publication))

        self._publisher.publish(publication, done)

    def _publish_again(self, seq: int, held: Held, publication: Publication) -> None:
        if self._held.get(seq) is held:
            self._publish(seq, held, publication)


def mark(identity: str, body: bytes) -> int:
    """By which a message is known again when it is delivered to another worker; never 0."""
    digest = hashlib.blake2b(identity.encode() or body, digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _MARK_BITS) or 1


def _headers(method: Any, properties: Any) -> dict[str, Any] | None:
    headers = {key: value for key, value in (properties.headers or {}).items() if key not in (ATTEMPT, REASON)}
    if method.exchange:
        headers.setdefault("amqp-exchange", method.exchange)
        headers.setdefault("amqp-routing-key", method.routing_key)
    for name in ("content_type", "content_encoding", "correlation_id", "reply_to", "type", "app_id"):
        value = getattr(properties, name)
        if value is not None:
            headers.setdefault(f"amqp-{name.replace('_', '-')}", value)
    return headers or None
