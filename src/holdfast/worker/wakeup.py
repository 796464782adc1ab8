"""How a handler thread wakes the I/O loop."""

from __future__ import annotations

import contextlib
import os


class WakeUp:
    """Call it from any thread; its descriptor is readable until it is cleared."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __call__(self) -> None:
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
