"""The supervisor's one loop: descriptors, signals and a next deadline. It polls nothing; between events it sleeps."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable

SIGNALS = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU, signal.SIGALRM),
)
READ, WRITE = select.EPOLLIN, select.EPOLLOUT


def block_signals() -> None:
    """Those that come wait, through an exec too, until `Loop.take_signals`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


class Loop:
    """Calls back for each readable descriptor and each signal; handlers of signals themselves do nothing but wake it."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._on_signal = on_signal
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def take_signals(self) -> None:
        """From here on signals arrive as events; also those that came while they were blocked (before an exec)."""
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda _number, _frame: None)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        self.watch(self._wake, self._signalled)
        self.let_signals()

    def watch(self, fd: int, callback: Callable[[], None], *, write: bool = False) -> None:
        """Call back while the descriptor is readable (or, with `write`, writable too)."""
        mask = READ | (WRITE if write else 0)
        if fd in self._callbacks:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Watch no more; before the descriptor is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, deadline: float | None) -> None:
        """Wait for something to happen, at most until the deadline (monotonic seconds), and call back for all of it."""
        timeout = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
        for fd, _mask in self._epoll.poll(timeout):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback()

    def hold_signals(self) -> bytes:
        """Let none arrive any more, and take those that have arrived and were not acted upon: nothing is lost on the way to an exec."""
        block_signals()
        return self._arrived()

    def let_signals(self) -> None:
        """Let them arrive (again)."""
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _signalled(self) -> None:
        for number in self._arrived():
            self._on_signal(number)

    def _arrived(self) -> bytes:
        arrived = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._wake, 4096):
                arrived += more
        return arrived
