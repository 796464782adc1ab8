"""Waiting for descriptors: one epoll, one callback each."""

from __future__ import annotations

import select
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

Callback = Callable[[int], None]


class Reactor:
    """Calls back with the events of each descriptor that is ready. Level-triggered."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back when this descriptor can be read."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, READ)

    def want(self, fd: int, events: int) -> None:
        """Wait for these events from now on."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """No more calls for this descriptor, which is still open; also none for what this turn has found."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, timeout: float | None) -> None:
        """Wait once, at most so many seconds (None: for ever), and call back."""
        for fd, events in self._epoll.poll(timeout):
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
