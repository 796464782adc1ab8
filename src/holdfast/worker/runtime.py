"""What a job instance reaches through `self`: its time, its end, and for `run` its transactions."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ParamSpec, TypeVar

from holdfast.errors import AppError, HoldfastError
from holdfast.model.spec import Work
from holdfast.stores.base import Connection
from holdfast.worker.settings_in_place import Attention

P = ParamSpec("P")
R = TypeVar("R")


class ThreadRuntime:
    """The `Runtime` of one handler thread."""

    def __init__(self, work: Work, draining: threading.Event, connection: Connection | None, attention: Attention | None = None) -> None:
        self._work = work
        self._draining = draining
        self._connection = connection
        # Of a thread that runs a loop of its own: these calls are where it takes new settings. A handler is in the midst of a message.
        self._attention = attention if work == "run" else None

    def alive(self) -> bool:
        if self._attention is not None:
            self._attention.look_up()
        return not self._draining.is_set()

    def sleep(self, seconds: float) -> bool:
        return not self._draining.wait(seconds) if self._attention is None else self._attention.nap(seconds)

    def transaction(self) -> AbstractContextManager[Any]:
        if self._work != "run":
            raise HoldfastError(f"transaction() is for run(); {self._work}() has its transaction already", remedy="use db")
        if self._connection is None:
            raise HoldfastError("this job has no store", remedy='set store = "sqlite:///…" in the class or in its [jobs] table')
        return _transaction(self._connection)


@contextmanager
def _transaction(connection: Connection) -> Iterator[Any]:
    transaction = connection.begin()
    try:
        transaction.begin_message()
        yield transaction.db
        broken = transaction.proof()
        if broken:
            raise AppError(f"the transaction was not whole any more: {broken}", remedy="catch database errors inside db.savepoint()")
        transaction.commit()
    except BaseException:
        transaction.rollback()
        raise


def only_here(work: Callable[P, R]) -> Callable[P, R]:
    """The same callable, which never returns in a process that it forked: that one ends instead of doing the worker's work too."""
    here = os.getpid()

    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        status = 0
        try:
            return work(*args, **kwargs)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            raise
        except BaseException:
            status = 1
            raise
        finally:
            if os.getpid() != here:
                os._exit(status)

    # `inspect.signature` shall still see what the user wrote; functools.wraps would also copy the instance's attributes.
    guarded.__wrapped__ = work  # type: ignore[attr-defined]
    guarded.__name__ = getattr(work, "__name__", "work")
    return guarded
