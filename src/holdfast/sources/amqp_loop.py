"""pika's I/O inside of another loop: one descriptor to watch and one time to look at the clock."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any

Handler = Callable[[int, int], None]


class NestedLoop:
    """What pika asks of an I/O loop (`AbstractSelectorIOLoop`), turned by whoever owns it.

    The owner watches `fileno` for reading, calls `turn` when it is readable and not later than `due`. Everything is called on the
    owner's thread; `add_callback` alone may be called from any.
    """

    READ, WRITE, ERROR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, list[Callable[[], Any] | None]]] = []
        self._numbers = itertools.count()
        self._callbacks: deque[Callable[[], Any]] = deque()

    def fileno(self) -> int:
        """Readable when there is something to do."""
        return self._epoll.fileno()

    def due(self) -> float | None:
        """When `turn` wants to be called at the latest, in monotonic seconds."""
        while self._timers and self._timers[0][2][0] is None:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def turn(self) -> None:
        """Do what is to be done now; never waits."""
        for fd, event in self._epoll.poll(0):
            if fd == self._wake:
                os.eventfd_read(self._wake)
            elif fd in self._handlers:
                self._handlers[fd](fd, event)
        for _ in range(len(self._callbacks)):
            self._callbacks.popleft()()
        now = time.monotonic()
        while (at := self.due()) is not None and at <= now:
            callback = heapq.heappop(self._timers)[2][0]
            if callback is not None:
                callback()

    def wait(self, until: float, done: Callable[[], object], peer: int = -1) -> bool:
        """Turn, and sleep in between, until `done` is true or the monotonic time is `until`; whether it is done.

        No longer than there is somebody at the other end of the descriptor `peer`, if one is given.
        """
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        if peer >= 0:
            poll.register(peer, 0)  # for nothing but the hang-up
        while not done():
            now = time.monotonic()
            if now >= until:
                return False
            due = self.due()
            ready = poll.poll(max(0.0, min(until, until if due is None else due) - now) * 1000 + 1)
            if any(fd == peer for fd, _event in ready):
                return False
            self.turn()
        return True

    def close(self) -> None:
        """Nothing is called any more."""
        self._handlers.clear()
        self._timers.clear()
        self._callbacks.clear()
        self._epoll.close()
        os.close(self._wake)

    # What pika calls

    def call_later(self, delay: float, callback: Callable[[], Any]) -> list[Callable[[], Any] | None]:
        """Call after so many seconds; gives what `remove_timeout` takes."""
        handle: list[Callable[[], Any] | None] = [callback]
        heapq.heappush(self._timers, (time.monotonic() + delay, next(self._numbers), handle))
        return handle

    def remove_timeout(self, handle: list[Callable[[], Any] | None]) -> None:
        handle[0] = None

    def add_callback(self, callback: Callable[[], Any]) -> None:
        """Call at the next turn. From any thread."""
        self._callbacks.append(callback)
        os.eventfd_write(self._wake, 1)

    def add_handler(self, fd: int, handler: Handler, events: int) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def update_handler(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def remove_handler(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def start(self) -> None:
        """The owner turns it."""

    def stop(self) -> None:
        """The owner turns it."""
