"""The messages of one process that wait for a handler thread, and the threads that wait for messages."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from holdfast.model.delivery import Delivery
from holdfast.model.share import share

#: What `take` returns when a thread is to look for dead letters that are marked for another try.
LETTERS: Sequence[Delivery] = ()
#: What `take` returns when the thread has something else to do first.
STIRRED: Sequence[Delivery] = []


class Intake:
    """Filled by the I/O loop, emptied by the handler threads, each taking its share. Safe from any thread."""

    def __init__(self, batch: int, *, threads: int = 1, linger: float = 0.0, one_writer: bool = False) -> None:
        self._batch = batch
        self._threads = threads
        self._linger = linger
        self._one_writer = one_writer
        self._waiting: deque[Delivery] = deque()
        self._alone: deque[Delivery] = deque()
        self._alone_with = 0  # the thread that has one of these; everybody else waits
        self._changed = threading.Condition()
        self._idle = 0
        self._letters = False
        self._paused = False
        self._draining = False

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Let these wait for a thread."""
        with self._changed:
            self._waiting.extend(deliveries)
            self._changed.notify(1 if self._one_writer else len(deliveries))

    def put_alone(self, delivery: Delivery) -> None:
        """Let this one be handled while no other is: it may kill the process."""
        with self._changed:
            self._alone.append(delivery)
            self._changed.notify_all()

    def take(self, stirred: Callable[[], bool] = lambda: False) -> Sequence[Delivery] | None:
        """Wait for work: this thread's share of what waits; LETTERS; STIRRED once `stirred` says so; None when the process drains."""
        with self._changed:
            self._idle += 1
            if self._alone or self._alone_with:
                self._look_at_the_alone()
            try:
                return self._await(stirred)
            finally:
                self._idle -= 1

    def stir(self) -> None:
        """Have every waiting thread ask whether it is stirred."""
        with self._changed:
            self._changed.notify_all()

    def ask_for_letters(self) -> None:
        """Have one thread look for letters."""
        with self._changed:
            self._letters = True
            self._changed.notify()

    def pause(self) -> None:
        """Give nothing out until `resume`."""
        with self._changed:
            self._paused = True

    def resume(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def empty(self) -> list[Delivery]:
        """Take back all that waits."""
        with self._changed:
            taken = [*self._alone, *self._waiting]
            self._alone.clear()
            self._waiting.clear()
            return taken

    def drain(self) -> list[Delivery]:
        """Send every thread home after what it has begun; returns what was not begun."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()
        return self.empty()

    def busy(self, threads: int) -> bool:
        """Whether anything waits, or one of so many threads is away from here."""
        with self._changed:
            return bool(self._waiting or self._alone) or self._idle < threads

    def _await(self, stirred: Callable[[], bool]) -> Sequence[Delivery] | None:
        while not self._draining:
            if stirred():
                if self._waiting:
                    self._changed.notify()  # this thread may have been woken for them
                return STIRRED
            if not self._paused and not self._alone_with:
                if self._alone:
                    if self._idle == self._threads:
                        self._alone_with = threading.get_ident()
                        return [self._alone.popleft()]
                    self._changed.wait()
                    continue
                if self._letters:  # first: under load there is always a message that waits
                    self._letters = False
                    return LETTERS
                if self._waiting:
                    self._wait_for_more()
                if self._waiting and not self._paused and not self._draining:
                    return self._share()
            self._changed.wait()
        return None

    def _look_at_the_alone(self) -> None:
        """A thread has come back: the one that was alone, or the last that a lonely one waits for."""
        if self._alone_with == threading.get_ident():
            self._alone_with = 0
        self._changed.notify_all()

    def _wait_for_more(self) -> None:
        """Linger for a fuller batch."""
        until = time.monotonic() + self._linger if self._linger else 0.0
        while until and 0 < len(self._waiting) < self._batch and not self._draining:
            left = until - time.monotonic()
            if left <= 0 or not self._changed.wait(left):
                return

    def _share(self) -> list[Delivery]:
        number = share(len(self._waiting), self._idle, self._batch, self._one_writer)
        taken = [self._waiting.popleft() for _ in range(number)]
        if self._waiting:
            # Whoever was told of these may have found nothing, or only a part; idle threads must not sleep beside waiting messages.
            self._changed.notify()
        return taken
