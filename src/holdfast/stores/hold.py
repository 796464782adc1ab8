"""Holding a name so that one process alone does something: by flock for databases that are files, by a session for servers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlalchemy

    from holdfast.stores.server import ServerStore


HOLD_SECONDS = 30.0  # after which a session that says nothing has lost its name: whoever had it is stopped, or cut off
_ASK_EVERY = 0.5


class FileHold:
    """See `holdfast.stores.base.Hold`. A killed process holds nothing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path: str) -> FileHold | None:
        """None when another one has it. Without a path nobody else could."""
        if not path:
            return cls(-1)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(fd)
        os.close(fd)
        return None

    def held(self) -> bool:
        return True

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class SessionHold:
    """See `holdfast.stores.base.Hold`: a session of its own, which the server ends when nothing is heard of it for a while."""

    def __init__(self, core: sqlalchemy.Connection) -> None:
        self._core = core
        self._asked = time.monotonic()
        self._lost = False

    @classmethod
    def take(cls, store: ServerStore, name: str) -> SessionHold | None:
        core = store.open()
        try:
            store.limit_idle(core, min(2 * store.timeout, HOLD_SECONDS))
            if store.lock_for(core, name):
                return cls(core)
        except BaseException:
            core.close()
            raise
        core.close()
        return None

    def held(self) -> bool:
        now = time.monotonic()
        if self._lost or now - self._asked < _ASK_EVERY:
            return not self._lost
        try:
            self._core.exec_driver_sql("SELECT 1")
        except Exception:
            self._lost = True
        self._asked = now
        return not self._lost

    def release(self) -> None:
        with contextlib.suppress(Exception):
            self._core.close()
