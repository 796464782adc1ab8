"""A connection to a broker that is made again whenever it is lost, with growing pauses; and what goes wrong, in words."""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from holdfast.errors import ConfigurationError, UnavailableError
from holdfast.model.broker import BrokerAddress
from holdfast.sources.amqp_loop import NestedLoop
from holdfast.telemetry import events

logging.getLogger("pika").setLevel(logging.CRITICAL)  # it tells each step of connecting, and each loss at length; we do, once

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
_CONNECT_SECONDS = 5.0
_ACCESS_REFUSED = 403

Connection = Any  # pika.SelectConnection; pika's types are not those of every version
OnUp = Callable[[Connection], None]
OnDown = Callable[[str], None]


class _Services(SelectorIOServicesAdapter):  # type: ignore[misc]
    """pika's own, but for a peer that is gone again before pika has looked: pika (1.4.4) raises that into the loop, and reports nothing."""

    def create_streaming_connection(self, protocol_factory: Any, sock: Any, on_done: Callable[[Any], None], **tls: Any) -> Any:
        try:
            return super().create_streaming_connection(protocol_factory, sock, on_done, **tls)
        except ValueError as error:
            reason = error.__context__ or error
            return self.call_later(0, lambda: on_done(reason))


class Link:
    """Keeps one connection. `up` is called with each new one, `down` with the reason when one is lost; both on the loop's thread.

    While the broker is away it is asked again after 0.1 s, 0.2 s and so on up to 10 s, each with jitter, so that many daemons do
    not come back at the same moment. Of the nodes of a cluster, the next one is asked after each failure.
    """

    def __init__(
        self, loop: NestedLoop, address: BrokerAddress, name: str, up: OnUp, down: OnDown, draw: Callable[[], float] = random.random
    ) -> None:
        self._loop = loop
        self._address = address
        self._up, self._down = up, down
        self._draw = draw
        self._nodes = [parameters(address.at(turn), name) for turn in range(len(address.nodes))]
        self._turn = 0
        self._connection: Connection = None
        self._pause = FIRST_PAUSE
        self._closing = False
        self._retry: Any = None
        #: Why there is no connection just now; "" when there is one, or before the first try has ended.
        self.trouble = ""
        self.refused = False  # the broker knows us and does not let us in
        self.blocked = ""  # why the broker reads nothing from us just now

    def open(self) -> None:
        """Begin to connect."""
        self._retry = None
        self._connection = pika.SelectConnection(
            self._nodes[self._turn % len(self._nodes)],
            on_open_callback=self._on_open,
            on_open_error_callback=lambda _connection, error: self._lost(error),
            on_close_callback=lambda _connection, error: self._lost(error),
            custom_ioloop=_Services(self._loop),
        )

    @property
    def alive(self) -> bool:
        """Whether there is an open connection."""
        return self._connection is not None and bool(self._connection.is_open)

    def close(self) -> None:
        """Close for good; `gone` tells when it is done."""
        self._closing = True
        if self._retry is not None:
            self._loop.remove_timeout(self._retry)
            self._retry = None
        if self.alive:
            self._connection.close()

    @property
    def gone(self) -> bool:
        """Whether nothing of a connection is left."""
        return self._connection is None or bool(self._connection.is_closed)

    def _on_open(self, connection: Connection) -> None:
        self._pause = FIRST_PAUSE
        if self.trouble:
            events.log("broker.back", self._address.at(self._turn).shown)
        self.trouble, self.refused, self.blocked = "", False, ""
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._up(connection)

    def _on_blocked(self, _connection: Connection, frame: Any) -> None:
        self.blocked = f"the broker takes nothing: {frame.method.reason}"
        events.log("broker.blocked", f"{self._address.at(self._turn).shown}: {frame.method.reason}", level="warning")

    def _on_unblocked(self, _connection: Connection, _frame: Any) -> None:
        self.blocked = ""
        events.log("broker.unblocked", self._address.at(self._turn).shown)

    def _lost(self, error: BaseException) -> None:
        self._connection = None
        reason = told(error)
        self.refused = _is_refusal(error)
        if not self._closing:
            if not self.trouble:
                events.log("broker.away", f"{self._address.at(self._turn).shown}: {reason}", level="error")
            self.trouble = reason
            self._turn += 1
            self._retry = self._loop.call_later(self._pause * (0.5 + self._draw() / 2), self.open)
            self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        self._down(reason)


def parameters(address: BrokerAddress, name: str) -> pika.ConnectionParameters:
    """What pika connects with; `name` is what the broker's lists show. ConfigurationError when the ca file cannot be read."""
    tls = None
    if address.tls:
        try:
            tls = pika.SSLOptions(ssl.create_default_context(cafile=address.ca or None), address.host)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"ca={address.ca} cannot be used: {error}", remedy="name a PEM file that this user can read") from None
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=address.heartbeat,
        ssl_options=tls,
        socket_timeout=_CONNECT_SECONDS,
        stack_timeout=_CONNECT_SECONDS,
        connection_attempts=1,
        client_properties={"connection_name": name, "product": "holdfast"},
    )


def told(error: BaseException | None) -> str:
    """A broker's error in one line."""
    if isinstance(error, (pika.exceptions.ConnectionClosed, pika.exceptions.ChannelClosed)):
        return f"{error.reply_code} {error.reply_text}".strip()
    deepest = _deepest(error)
    words = str(deepest).splitlines()
    return f"{type(deepest).__name__}: {words[0]}" if words else type(deepest).__name__


def unavailable(address: BrokerAddress, reason: str) -> UnavailableError:
    """The broker is not to be had."""
    return UnavailableError(f"the broker {address.shown} is not to be had: {reason}", remedy="start it, or correct the source's URL")


def _deepest(error: BaseException | None) -> BaseException | None:
    """pika wraps what has happened into what it was doing."""
    while error is not None:
        several, one = getattr(error, "exceptions", None), getattr(error, "exception", None)
        inner = several[-1] if several else one or next(iter(error.args), None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _is_refusal(error: BaseException) -> bool:
    deepest = _deepest(error)
    wrong = (pika.exceptions.ProbableAuthenticationError, pika.exceptions.ProbableAccessDeniedError, pika.exceptions.AuthenticationError)
    return isinstance(deepest, wrong) or getattr(deepest, "reply_code", 0) == _ACCESS_REFUSED
