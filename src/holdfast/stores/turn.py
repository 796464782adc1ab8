"""Whose turn it is to write: first come, first served, among the threads of a process and among processes.

SQLite's own waiting is unfair (one of 8 threads waited 3.8 s of 4); a queue in the process and an flock beside the file are fair and
need no error handling. The flock of a killed process frees itself.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque


class Turn:
    """One per database and process; `path` is the file to flock, empty for a database in memory."""

    def __init__(self, path: str) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if path else -1

    def take(self) -> None:
        """Wait for the turn."""
        with self._guard:
            mine = threading.Lock()
            mine.acquire()
            if not self._taken:
                self._taken = True
                mine.release()
            else:
                self._waiting.append(mine)
        mine.acquire()
        if self._fd >= 0:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
            except BaseException:
                self._next()
                raise

    def give(self) -> None:
        """Let the next one write."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._next()

    def _next(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
