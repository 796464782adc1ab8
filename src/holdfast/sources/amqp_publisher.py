"""Publishing that knows how it ended: each message is confirmed by the broker, returned because nobody takes it, or not sent at all."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pika
import pika.exceptions

from holdfast.model.broker import BrokerAddress
from holdfast.model.dispatch import Blame
from holdfast.sources.amqp_link import Connection, Link, told
from holdfast.sources.amqp_loop import NestedLoop

_DURABLE = 2
_NOT_FOUND, _REFUSED = 404, 403


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a message was not taken, and what is to blame."""

    reason: str
    blame: Blame


Done = Callable[[Failure | None], None]


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to be published: always durable, always mandatory."""

    exchange: str
    key: str
    body: bytes
    properties: Any  # pika.BasicProperties
    queue: str = ""  # declared before it is published, with these arguments
    arguments: Mapping[str, Any] | None = None


class Publisher:
    """A connection of its own, since a broker that is short of room reads nothing from connections that publish.

    `publish` calls `done` exactly once, on the loop's thread: with None once the broker has confirmed the message (it is on the disks
    of a majority then, in a quorum queue), else with the failure; the message may have been published nevertheless when the
    connection was lost before its confirm. Messages are published in the order of the calls. The connection is made with the first one.
    """

    def __init__(self, loop: NestedLoop, address: BrokerAddress, name: str) -> None:
        self._link = Link(loop, address, name, self._up, self._down)
        self._opened = False
        self._channel: Any = None
        self._waiting: list[tuple[Publication, Done]] = []  # until there is a channel
        self._unconfirmed: dict[int, tuple[Publication, Done]] = {}
        self._returned: dict[int, str] = {}
        self._sent = 0
        self._declared: set[str] = set()

    @property
    def pending(self) -> int:
        """Messages whose end is not known yet."""
        return len(self._waiting) + len(self._unconfirmed)

    def publish(self, publication: Publication, done: Done) -> None:
        """Publish, as soon as there is a connection."""
        if not self._opened:
            self._opened = True
            self._link.open()
        if self._channel is None:
            self._waiting.append((publication, done))
        else:
            self._send(publication, done)

    def close(self) -> None:
        """Close the connection; what is not confirmed by then fails."""
        if self._opened:
            self._link.close()

    @property
    def trouble(self) -> str:
        """Why nothing is confirmed just now, where that is known."""
        return self._link.trouble or self._link.blocked

    @property
    def gone(self) -> bool:
        """Whether nothing of the connection is left."""
        return self._link.gone

    def _up(self, connection: Connection) -> None:
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, lambda _frame: self._begin(channel))

    def _begin(self, channel: Any) -> None:
        self._channel, self._sent = channel, 0
        self._declared.clear()
        waiting, self._waiting = self._waiting, []
        for publication, done in waiting:
            self._send(publication, done)

    def _send(self, publication: Publication, done: Done) -> None:
        channel = self._channel
        if publication.queue and publication.queue not in self._declared:
            # On the same channel: it is there before the message is.
            channel.queue_declare(publication.queue, durable=True, arguments=dict(publication.arguments or {}), callback=_nothing)
            self._declared.add(publication.queue)
        publication.properties.delivery_mode = _DURABLE
        try:
            channel.basic_publish(publication.exchange, publication.key, publication.body, publication.properties, mandatory=True)
        except (pika.exceptions.AMQPError, struct.error, TypeError, ValueError) as error:  # nothing of it was sent
            done(Failure(f"it cannot be written as AMQP: {error!r}", Blame.MESSAGE))
            return
        self._sent += 1
        self._unconfirmed[self._sent] = publication, done

    def _on_return(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """Comes before the confirm of the message that nobody takes, and does not say which one that is."""
        came = (method.exchange, method.routing_key, properties.message_id, body)
        for number, (one, _done) in self._unconfirmed.items():
            if number not in self._returned and (one.exchange, one.key, one.properties.message_id, one.body) == came:
                where = f"exchange '{method.exchange}'" if method.exchange else "the broker"
                self._returned[number] = f"{method.reply_code} {method.reply_text}: no queue takes '{method.routing_key}' at {where}"
                return

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        nack = "the broker did not take it" if isinstance(method, pika.spec.Basic.Nack) else ""
        tag = method.delivery_tag
        for number in [one for one in self._unconfirmed if one <= tag] if method.multiple else [tag]:
            found = self._unconfirmed.pop(number, None)
            if found is not None:
                reason = self._returned.pop(number, "") or nack
                found[1](Failure(reason, Blame.ROUTE) if reason else None)

    def _on_channel_closed(self, channel: Any, error: BaseException) -> None:
        if channel.connection.is_open:  # the broker closed the channel alone, over something that we asked
            self._fail(told(error), self._blame(getattr(error, "reply_code", 0)))
            channel.connection.channel(on_open_callback=self._on_channel)

    def _blame(self, code: int) -> Blame:
        if code in (_NOT_FOUND, _REFUSED):  # of the exchange
            return Blame.TARGET
        return Blame.MESSAGE if len(self._unconfirmed) == 1 else Blame.UNKNOWN

    def _down(self, reason: str) -> None:
        self._fail(f"the connection to the broker is lost: {reason}", Blame.AWAY)

    def _fail(self, reason: str, blame: Blame) -> None:
        self._channel = None
        failed = [*self._unconfirmed.values(), *self._waiting]
        self._unconfirmed, self._returned, self._waiting = {}, {}, []
        for _publication, done in failed:
            done(Failure(reason, blame))


def _nothing(_frame: Any) -> None:
    """The declaration was taken; one that is not closes the channel."""
