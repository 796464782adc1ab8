"""The outbox: messages that leave after the commit of the transaction they were written in, each until the broker has confirmed it.

A row is deleted once it is confirmed. Nobody remembers a position: the order of commits is not that of the numbers, and a row that
becomes visible late must not be skipped (trap 29).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from holdfast.errors import HoldfastError
from holdfast.model.dispatch import Blocked
from holdfast.model.targets import Target, Targets
from holdfast.stores.statements import own

MOST_BYTES = 4 << 20  # of one body: every database and driver takes it in one row
_LONGEST_NAME = 255
_LONGEST_HEADER = 128
_MOST_HEADERS = 32 << 10  # bytes of all of them as JSON; in AMQP they must fit into one frame of 128 KiB
_PART = 100
COPIES = ("CC", "BCC")  # headers that are routing keys to RabbitMQ, of copies


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that waits to be sent."""

    id: int
    target: str
    key: str
    message_id: str
    headers: Mapping[str, Any]
    body: bytes
    created_at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is known of it before its body is fetched."""

    id: int
    target: str
    key: str
    size: int


Choose = Callable[[Sequence[Waiting]], Mapping[str, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Depth:
    """How many wait, and since when the oldest does, in seconds since the epoch."""

    messages: int
    oldest: float | None


class Outbox:
    """The outbox of one job, in one process. `wake` is called after each commit that has put something in, from any thread."""

    def __init__(self, scope: str, targets: Targets | None = None, wake: Callable[[], object] = lambda: None) -> None:
        self.scope = scope
        self.targets = targets or Targets()
        self.wake = wake

    def put(
        self, connection: Connection, url: str, body: bytes | str, key: str, headers: Mapping[str, Any] | None, message_id: str | None
    ) -> None:
        """Write a message into the transaction that is open. HoldfastError, and nothing is written, when it could never be sent."""
        target = self.targets.target(url)
        data = body.encode() if isinstance(body, str) else bytes(body)
        check(target, data, key, message_id)
        text = encoded(headers or {})
        values = (self.scope, target.url, key, message_id or uuid.uuid4().hex, text, data, time.time())
        sql = "INSERT INTO holdfast_outbox (scope, target, routing_key, message_id, headers, body, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
        own(connection, sql, values)


def check(target: Target, body: bytes, key: str, message_id: str | None) -> None:
    """HoldfastError for what no broker, or no database of ours, would take."""
    if target.queue and key and key != target.queue:
        raise HoldfastError("a message to a queue has no key of its own", remedy="leave key out, or publish to an exchange")
    if len(body) > MOST_BYTES:
        raise HoldfastError(
            f"the body has {len(body)} bytes, and {MOST_BYTES} are the most", remedy="store it elsewhere, and publish where it is"
        )
    for what, text in (("key", key), ("message_id", message_id or "")):
        if len(text.encode()) > _LONGEST_NAME or "\0" in text:
            raise HoldfastError(f"{what} is longer than {_LONGEST_NAME} bytes, or holds a NUL", remedy="use a shorter one")


def check_headers(headers: Mapping[str, Any]) -> None:
    """HoldfastError for what AMQP's tables, or JSON, do not carry; else it would be found out when the handler has long returned."""
    for name, value in headers.items():
        if not isinstance(name, str) or not 0 < len(name.encode()) <= _LONGEST_HEADER:
            raise HoldfastError(f"the name of a header is no text of 1 to {_LONGEST_HEADER} bytes: {name!r}", remedy="use a shorter one")
        _check_value(name, value)


def encoded(headers: Mapping[str, Any]) -> str:
    """As they lie in the table; HoldfastError for those over which a broker closes the channel, and fails what is sent with them."""
    check_headers(headers)
    for name in COPIES:
        keys = headers.get(name, [])
        if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
            raise HoldfastError(f"header {name} is no list of routing keys", remedy="write it so, or give the header another name")
    text = json.dumps(dict(headers))
    if len(text) > _MOST_HEADERS:
        raise HoldfastError(f"the headers have {len(text)} bytes, and {_MOST_HEADERS} are the most", remedy="put it into the body")
    return text


def _check_value(name: str, value: Any) -> None:
    if isinstance(value, Mapping):
        check_headers(value)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _check_value(name, one)
    elif isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise HoldfastError(f"header {name!r} is a number of more than 64 bits", remedy="write it as text")
    elif value is not None and not isinstance(value, str):
        raise HoldfastError(f"header {name!r} is {type(value).__name__}, which is not carried", remedy="write it as text")


def take(connection: Connection, scope: str, most: int, without: Blocked, choose: Choose) -> dict[str, list[Outgoing]]:
    """By target, the oldest that wait, but for those `without`, as far as `choose` wants them: bodies are fetched of these alone."""
    where, values = "scope = ?", [scope]
    where, values = _but_for(where, values, "target", without.targets)
    for target, keys in without.keys.items():
        where += f" AND NOT (target = ? AND routing_key IN ({_marks(keys)}))"
        values += [target, *keys]
    where, values = _but_for(where, values, "id", without.ids)
    sql = f"SELECT id, target, routing_key, length(body) FROM holdfast_outbox WHERE {where} ORDER BY id LIMIT {most}"
    wanted = choose([Waiting(*row) for row in own(connection, sql, tuple(values))])
    return {target: _load(connection, ids) for target, ids in wanted.items()}


def _but_for(where: str, values: list[Any], column: str, some: Sequence[Any]) -> tuple[str, list[Any]]:
    return (f"{where} AND {column} NOT IN ({_marks(some)})", [*values, *some]) if some else (where, values)


def _marks(some: Sequence[Any]) -> str:
    return ", ".join("?" * len(some))


def _load(connection: Connection, ids: Sequence[int]) -> list[Outgoing]:
    columns = "id, target, routing_key, message_id, headers, body, created_at"
    rows = own(connection, f"SELECT {columns} FROM holdfast_outbox WHERE id IN ({_marks(ids)}) ORDER BY id", tuple(ids)).all()
    return [Outgoing(row[0], row[1], row[2], row[3], json.loads(row[4]), bytes(row[5]), row[6]) for row in rows]


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """They are confirmed."""
    for start in range(0, len(ids), _PART):
        part = tuple(ids[start : start + _PART])
        own(connection, f"DELETE FROM holdfast_outbox WHERE id IN ({_marks(part)})", part)


def depth(connection: Connection, scope: str) -> Depth:
    """What waits now."""
    count, oldest = own(connection, "SELECT count(*), min(created_at) FROM holdfast_outbox WHERE scope = ?", (scope,)).one()
    return Depth(count, oldest)
