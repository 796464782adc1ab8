"""A service manager for tests: the socket that it gives to what it starts, and all that it was told there."""

from __future__ import annotations

import os
import queue
import socket
import threading
from types import TracebackType
from typing import Self

PATIENCE = 60.0
Message = dict[str, str]


class ServiceManager:
    """Has a socket at `address`, a path or '@' and a name, and reads it, from `read` on. `heard`: every message that was looked at.

    With `full`, for a path, there was never room in it for anything before it is read.
    """

    def __init__(self, address: str, *, full: bool = False) -> None:
        self.address = address
        self.heard: list[Message] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._place = "\0" + address[1:] if address[0] == "@" else address
        if full:
            unknown = address + ".full"
            self._socket.bind(unknown)
            _fill(unknown)
            os.rename(unknown, address)
        else:
            self._socket.bind(self._place)
        self._came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.shutdown(socket.SHUT_RD)
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()

    def read(self) -> Self:
        """At once, as a manager does: the kernel keeps few messages."""
        self._thread.start()
        return self

    def until(self, word: str) -> Message:
        """The next message with this assignment, or with this name in one; AssertionError when none comes."""
        while (message := self._next(PATIENCE)) is not None:
            if word in message or word in [f"{name}={value}" for name, value in message.items()]:
                return message
        raise AssertionError(f"nobody said {word}, but {self.heard[-20:]}")

    def catch_up(self) -> list[Message]:
        """What was said until now and not looked at."""
        before = len(self.heard)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"UNTIL=now", self._place)
        self.until("UNTIL=now")
        return self.heard[before:-1]

    def silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        return self._next(seconds) is None

    def states(self) -> list[str]:
        """Of all that was heard, what changes the state of a unit."""
        return [name for message in self.heard for name in message if name in ("READY", "RELOADING", "STOPPING")]

    def _next(self, seconds: float) -> Message | None:
        try:
            data = self._came.get(timeout=seconds)
        except queue.Empty:
            return None
        message = dict(line.split("=", 1) for line in data.decode().split("\n"))
        self.heard.append(message)
        return message

    def _run(self) -> None:
        while data := self._socket.recv(1 << 16):
            self._came.put(data)


def _fill(address: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            while True:
                sock.sendto(b"X=1", address)
        except BlockingIOError:
            return
