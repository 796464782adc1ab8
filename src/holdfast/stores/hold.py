"""Holding a name so that one process alone does something: by flock, for databases that are files."""

from __future__ import annotations

import contextlib
import fcntl
import os


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
