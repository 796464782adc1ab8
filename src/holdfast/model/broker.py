"""The URL of a RabbitMQ source: what it may say, and everything that can be wrong with it.

    amqp://USER:PASSWORD@HOST:PORT/VHOST?queue=fee
    amqps://USER:PASSWORD@HOST/VHOST?queue=email&exchange=email&routing_key=email&ca=/etc/ssl/rabbit.pem
    amqp://USER:PASSWORD@HOST:PORT,HOST:PORT,HOST:PORT/VHOST?queue=fee      the nodes of one cluster

Host, port (5672, with TLS 5671), user (guest) and virtual host (/) have the defaults of AMQP; %2F in the virtual host is a slash.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from holdfast.errors import ConfigurationError

SCHEMES = ("amqp", "amqps")
#: More than any queue will ever count: attempts are ours, and the broker's own limit drops innocents with the guilty.
NO_LIMIT = 2_147_483_647
FORM = "write it as amqp://USER:PASSWORD@HOST:PORT/VHOST?queue=NAME"
_ESCAPE = "write / ? # @ in a user, password or virtual host as %2F %3F %23 %40"
_LONGEST_NAME = 255 - len(".retry.2147483")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is, and who we are there."""

    host: str
    port: int
    user: str
    password: str
    vhost: str
    tls: bool = False
    ca: str = ""
    heartbeat: int = 10  # seconds
    others: tuple[tuple[str, int], ...] = ()  # host and port of further nodes of the same cluster

    @property
    def nodes(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each node, in the order of the URL."""
        return (self.host, self.port), *self.others

    @property
    def places(self) -> str:
        """The nodes as a URL has them."""
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.nodes)

    @property
    def shown(self) -> str:
        """Without user and password."""
        return f"{'amqps' if self.tls else 'amqp'}://{self.places}/{'' if self.vhost == '/' else self.vhost}"

    def at(self, turn: int) -> BrokerAddress:
        """The node that is asked in this turn, alone: the first one in turn 0, and after the last one the first again."""
        host, port = self.nodes[turn % len(self.nodes)]
        return replace(self, host=host, port=port, others=())


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """A queue at a broker, and how it is declared and consumed."""

    broker: BrokerAddress
    queue: str
    exchange: str = ""  # "": the queue is reached by its name alone
    exchange_type: str = "direct"
    routing_key: str = ""
    declare: str = "create"  # or "passive": everything must be there
    queue_type: str = "quorum"  # or "classic"
    delivery_limit: int = NO_LIMIT
    single_active: bool = False
    prefetch: int = 0  # 0: what the batches need
    identity: str = ""  # "message_id" or "header:NAME" when every message has it; "": message_id, where there is one

    @property
    def dropped(self) -> str:
        """The queue for what the broker gives up by itself."""
        return f"{self.queue}.dropped"


def parse_queue(url: str) -> QueueAddress:
    """What the URL of a source says. ConfigurationError for one that cannot be used; it never repeats a password."""
    broker, given = _parse(url, {**_CONNECTION, **_QUEUE})
    if not given.get("queue"):
        raise ConfigurationError("this source names no queue", remedy=FORM)
    for key in ("queue", "exchange"):
        if len(given.get(key, "").encode()) > _LONGEST_NAME:
            raise ConfigurationError(f"{key}= is longer than {_LONGEST_NAME} bytes", remedy="use a shorter name")
    if "exchange" not in given and ("exchange_type" in given or "routing_key" in given):
        raise ConfigurationError("exchange_type= and routing_key= need exchange=", remedy="name the exchange, or leave them out")
    if given.get("queue_type") == "classic" and "delivery_limit" in given:
        raise ConfigurationError("classic queues have no delivery_limit", remedy="leave it out, or use queue_type=quorum")
    given.setdefault("routing_key", given["queue"])
    return QueueAddress(broker, **{_FIELDS.get(key, key): value for key, value in given.items()})


def parse_broker(url: str) -> BrokerAddress:
    """The broker alone, of a URL that names no queue."""
    return _parse(url, _CONNECTION)[0]


def parse_parts(url: str, names: Sequence[str]) -> tuple[BrokerAddress, dict[str, Any]]:
    """The broker, and those of these parameters that the URL has."""
    return _parse(url, {name: _QUEUE[name] for name in names})


def _parse(url: str, known: Mapping[str, Callable[[str, str], Any]]) -> tuple[BrokerAddress, dict[str, Any]]:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in SCHEMES:
        raise ConfigurationError("this is not the URL of a broker", remedy=FORM)
    if not url.isprintable() or " " in url:
        raise ConfigurationError("the URL holds a blank or a character that cannot be printed", remedy=FORM)
    if "#" in rest:
        raise ConfigurationError("the URL of a broker has no #fragment", remedy=_ESCAPE)
    place, _, query = rest.partition("?")
    given = _parameters(query, known)
    userinfo, at, place = place.rpartition("@")
    hostport, _, vhost = place.partition("/")
    if "/" in vhost or "/" in userinfo:
        raise ConfigurationError("there is a / too many", remedy=_ESCAPE)
    tls = scheme.lower() == "amqps"
    (host, port), *others = _nodes(hostport, 5671 if tls else 5672)
    user, _, password = userinfo.partition(":")
    if at and not user:
        raise ConfigurationError("there is an @ and no user", remedy=FORM)
    connection = {key: given.pop(key) for key in _CONNECTION if key in given}
    if "ca" in connection and not tls:
        raise ConfigurationError("ca= is for amqps://", remedy="write amqps://, or leave it out")
    who = (unquote(user), unquote(password)) if at else ("guest", "guest")
    return BrokerAddress(host, port, *who, vhost=unquote(vhost) or "/", tls=tls, others=tuple(others), **connection), given


def _parameters(query: str, known: Mapping[str, Callable[[str, str], Any]]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            raise ConfigurationError(f"unknown parameter '{name}'", remedy=f"{guess}known: {', '.join(known)}")
        if name in given:
            raise ConfigurationError(f"{name}= is there twice", remedy="leave one of them out")
        given[name] = known[name](name, value)
    return given


def _nodes(text: str, default: int) -> list[tuple[str, int]]:
    several = text.split(",")
    if len(several) > 1 and "" in several:
        raise ConfigurationError("there is a comma too many between the hosts", remedy="write HOST:PORT,HOST:PORT")
    nodes = [_host_and_port(one, default) for one in several]
    if len(set(nodes)) < len(nodes):
        raise ConfigurationError("a host is there twice", remedy="name each node of the cluster once")
    return nodes


def _host_and_port(text: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?))?(?::([0-9]{1,5}))?", text)
    if match is None:
        raise ConfigurationError(f"'{text}' is not a host and a port", remedy=FORM)
    port = int(match[4]) if match[4] else default
    if not 1 <= port <= 65535:
        raise ConfigurationError(f"'{port}' is not a port", remedy="write a number from 1 to 65535")
    return match[1] or match[2] or "localhost", port


def _text(name: str, value: str) -> str:
    if not value:
        raise ConfigurationError(f"{name}= is empty", remedy="give it a value, or leave it out")
    return value


def _choice(*choices: str) -> Callable[[str, str], str]:
    def check(name: str, value: str) -> str:
        if value not in choices:
            near = difflib.get_close_matches(value, choices, 1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            raise ConfigurationError(f"{name}={value} is none of those that there are", remedy=f"{guess}known: {', '.join(choices)}")
        return value

    return check


def _number(least: int, most: int) -> Callable[[str, str], int]:
    def check(name: str, value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", value) or not least <= int(value) <= most:
            raise ConfigurationError(f"{name}={value} is not a number from {least} to {most}", remedy="write such a number")
        return int(value)

    return check


def _truth(name: str, value: str) -> bool:
    if value not in {"true", "false"}:
        raise ConfigurationError(f"{name}={value} is neither true nor false", remedy=f"write {name}=true, or leave it out")
    return value == "true"


def _identity(name: str, value: str) -> str:
    if value != "message_id" and not re.fullmatch(r"header:.+", value):
        raise ConfigurationError(f"{name}={value} is none of those that there are", remedy="write message_id or header:NAME")
    return value


_CONNECTION: dict[str, Callable[[str, str], Any]] = {"heartbeat": _number(1, 3600), "ca": _text}
_QUEUE: dict[str, Callable[[str, str], Any]] = {
    "queue": _text,
    "exchange": _text,
    "exchange_type": _choice("direct", "topic", "fanout", "headers", "x-consistent-hash"),
    "routing_key": _text,
    "declare": _choice("create", "passive"),
    "queue_type": _choice("quorum", "classic"),
    "delivery_limit": _number(1, NO_LIMIT),
    "single_active_consumer": _truth,
    "prefetch": _number(1, 65535),
    "identity": _identity,
}
_FIELDS = {"single_active_consumer": "single_active"}
