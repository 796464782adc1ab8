"""Publishing what waits in an outbox, each message at its own broker."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import pika

from holdfast.model.broker import BrokerAddress
from holdfast.model.targets import Targets
from holdfast.sources.amqp_loop import NestedLoop
from holdfast.sources.amqp_publisher import Done, Publication, Publisher

_CLOSE_SECONDS = 2.0


class Message(Protocol):
    """What is sent; see `holdfast.stores.outbox.Outgoing`."""

    @property
    def target(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def message_id(self) -> str: ...
    @property
    def headers(self) -> Any: ...
    @property
    def body(self) -> bytes: ...
    @property
    def created_at(self) -> float: ...


class Senders:
    """A publisher for each exchange, made when it is needed: one that is not there costs the others nothing. Used by one thread."""

    def __init__(self, targets: Targets, name: str) -> None:
        self._targets = targets
        self._name = name
        self._loop = NestedLoop()
        self._publishers: dict[tuple[BrokerAddress, str], Publisher] = {}

    def send(self, message: Message, done: Done) -> None:
        """Publish; `done` is told how it ended, mostly inside of `wait`. ConfigurationError when nobody knows who we are there."""
        address = self._targets.broker(message.target)
        target = self._targets.target(message.target)
        place = address, target.exchange
        publisher = self._publishers.get(place)
        if publisher is None:
            publisher = self._publishers[place] = Publisher(self._loop, address, self._name)
        properties = pika.BasicProperties(
            message_id=message.message_id, headers=dict(message.headers) or None, timestamp=int(message.created_at)
        )
        publisher.publish(Publication(target.exchange, target.routing_key(message.key), message.body, properties), done)

    @property
    def trouble(self) -> str:
        """Why a broker takes nothing just now; "" when each does."""
        return next((publisher.trouble for publisher in self._publishers.values() if publisher.trouble), "")

    def wait(self, seconds: float, done: Callable[[], object]) -> None:
        """Let things happen, so long or until `done`."""
        self._loop.wait(time.monotonic() + seconds, done)

    def poke(self) -> None:
        """End a `wait` early, if what it waits for is true. From any thread."""
        self._loop.add_callback(_nothing)

    def close(self) -> None:
        """Close every connection."""
        for publisher in self._publishers.values():
            publisher.close()
        self._loop.wait(time.monotonic() + _CLOSE_SECONDS, lambda: all(publisher.gone for publisher in self._publishers.values()))
        self._loop.close()


def _nothing() -> None:
    """Whoever waits looks again."""
