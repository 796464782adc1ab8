"""The class a user writes: options as attributes, one method that is the work, hooks around it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from holdfast.errors import HoldfastError
from holdfast.model.message import Message


class Runtime(Protocol):
    """What the worker gives to a job instance: the way to its time, its store and its end."""

    def alive(self) -> bool: ...
    def sleep(self, seconds: float) -> bool: ...
    def transaction(self) -> AbstractContextManager[Any]: ...


class Job:
    """Work that goes on for ever. One instance per handler thread, built without arguments.

    Exactly one of `handle(self, message[, db])`, `handle_batch(self, messages[, db])` and `run(self)` is the work. Class
    attributes named as in `holdfast.model.options.JobOptions` are the job's defaults, written as in holdfast.toml.
    """

    #: SQL statements, separated by semicolons, that make the job's own tables; run once per generation before any worker.
    schema: str = ""
    #: The app's own settings, by section.
    settings: Mapping[str, Any] = {}

    _runtime: Runtime | None = None

    def setup(self) -> None:
        """Open what is this thread's own. What it raises keeps the daemon from starting."""

    def teardown(self) -> None:
        """Close what `setup` opened."""

    @classmethod
    def setup_process(cls, settings: Mapping[str, Any]) -> None:
        """Make what the threads of one worker process share."""

    @classmethod
    def prepare(cls, db: Any) -> None:
        """Make the job's own tables; runs once per generation, in one process, before any worker, after `schema`."""

    def reload(self, settings: Mapping[str, Any]) -> None:
        """Take new settings in place, between two messages."""

    def identity(self, message: Message) -> str | bytes | None:
        """Which message this is; the same identity again has no second effect. None: the transport's own id."""
        return None

    def key(self, message: Message) -> str | bytes | None:
        """What the message is about; `ordered` jobs keep the order per key."""
        return None

    def alive(self) -> bool:
        """Whether `run` should go on: False once a stop or a reload asks for the end."""
        return self._bound().alive()

    def sleep(self, seconds: float) -> bool:
        """Wait, but return early on stop and reload; True when `run` should go on."""
        return self._bound().sleep(seconds)

    def transaction(self) -> AbstractContextManager[Any]:
        """A transaction of this thread's connection, for `run`: commits at the end of the block, rolls back on an error."""
        return self._bound().transaction()

    def _bound(self) -> Runtime:
        if self._runtime is None:
            raise HoldfastError("alive, sleep and transaction work in a running daemon only", remedy="call them from run()")
        return self._runtime
