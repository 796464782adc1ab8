"""The data socket of one worker, as the ingress uses it: whole frames in, whole frames out, never waiting."""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from collections.abc import Iterator
from typing import Any

from holdfast.model.delivery import Decoder

READ = 1 << 18

Frame = tuple[str, Any]


class WorkerSocket:
    """One worker's socket. `receive` and `send` never block and never raise for what the worker does."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._decoder = Decoder()
        self._unsent = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Iterator[Frame]:
        """The frames that have become whole; EOFError when the other end is closed; msgspec.MsgspecError for what is no frame."""
        try:
            data = self._socket.recv(READ)
        except BlockingIOError:
            return iter(())
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return self._decoder.feed(data)

    def remains(self) -> Iterator[Frame]:
        """The frames of a dead worker that nobody has read yet; a partial frame at the end is dropped.

        Reads what was there when it was called and no more: a child that the worker's code had forked may hold the other end
        open, and even write to it.
        """
        waiting = array.array("i", [0])
        fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, waiting)
        left = waiting[0]
        while left > 0:
            try:
                data = self._socket.recv(min(left, READ))
            except OSError:
                return
            if not data:
                return
            left -= len(data)
            yield from self._decoder.feed(data)

    def send(self, data: bytes | bytearray) -> bool:
        """Send, or keep for later, one frame; whether all of it went out. To be called only when the last one has."""
        try:
            sent = self._socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return True  # the worker is gone: the end of the socket is read soon
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
        return not self._unsent

    def flush(self) -> bool:
        """Send more of what was kept; whether nothing is left."""
        data, self._unsent = self._unsent, bytearray()
        return self.send(data)

    def shut(self) -> None:
        """Let the worker see the end of its source."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        self._socket.close()
