"""What a job receives, and the two outcomes other than an answer that it can raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")

_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})


class Retry(Exception):
    """Undo this message's writes and try it again, after `after` seconds (default: the job's backoff)."""

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class Reject(Exception):
    """Undo this message's writes and put it among the dead letters, without another try."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def _cannot_extend(seconds: float) -> None:
    """A message that no worker handles has no time limit."""


class Message:
    """One message: its bytes, what its transport says of it, and how often it was tried.

    `received_at` is in seconds since the epoch. `attempt` is 1 at the first try. What cannot be decoded raises Reject.
    """

    __slots__ = ("_extend", "attempt", "body", "headers", "id", "received_at", "source")

    def __init__(
        self,
        body: bytes,
        *,
        id: str = "",
        headers: Mapping[str, Any] = _NO_HEADERS,
        attempt: int = 1,
        received_at: float = 0.0,
        source: str = "",
        extend: Callable[[float], None] = _cannot_extend,
    ) -> None:
        self.body = body
        self.id = id
        self.headers = headers
        self.attempt = attempt
        self.received_at = received_at
        self.source = source
        self._extend = extend

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Reject(f"body is not UTF-8: {error}") from error

    def json(self) -> Any:
        """The body as JSON."""
        import msgspec

        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Reject(f"body is not JSON: {error}") from error

    def as_type(self, kind: type[T]) -> T:
        """The body as JSON of the given type (any that msgspec knows: Struct, dataclass, TypedDict …)."""
        import msgspec

        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise Reject(f"body is not a {getattr(kind, '__name__', kind)}: {error}") from error

    def extend(self, seconds: float) -> None:
        """Allow this message's handler `seconds` more, counted from now, before it is taken for hung."""
        self._extend(seconds)

    def __repr__(self) -> str:
        return f"Message({self.body[:40]!r}, id={self.id!r}, attempt={self.attempt})"
