"""The control socket's server part: JSON lines over a UNIX stream socket, never blocking, bounded, closed to other users."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MOST_CLIENTS = 64
MOST_REQUEST = 65536
REQUEST_LIMIT = 15.0  # seconds in which a client must have said what it wants; more than a loaded machine may stand still

_UCRED = struct.Struct("3i")


def bind(directory: str, name: str) -> socket.socket:
    """Listen on DIRECTORY/NAME.sock, mode 0600; through /proc/self/fd, since a UNIX path is at most 107 bytes long.

    Only for the holder of the instance's lock: it replaces a socket that a dead instance has left. The name appears when it listens.
    """
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    path = f"/proc/self/fd/{folder}/{name}.sock"
    coming = f"{path}.new"
    try:
        if os.path.lexists(coming):
            os.unlink(coming)
        before = os.umask(0o177)
        try:
            listener.bind(coming)
        finally:
            os.umask(before)
        listener.listen(1024)
        os.rename(coming, path)
    except OSError:
        listener.close()
        with contextlib.suppress(OSError):
            os.unlink(coming)
        raise
    finally:
        os.close(folder)
    return listener


@dataclass(slots=True)
class Client:
    """One connection: what it has sent, what it is still to get."""

    socket: socket.socket
    deadline: float | None
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    asked: bool = False
    finished: bool = False


class ControlServer:
    """Clients by descriptor. `on_request(fd, request)` is called for each whole request; `watch(fd, write)` tells the loop.

    `watch(fd, None)` means: forget it. Half-open clients beyond MOST_CLIENTS push out the oldest one that has not asked yet.
    """

    def __init__(
        self,
        listener: socket.socket,
        allowed: frozenset[int],
        on_request: Callable[[int, dict[str, Any]], None],
        watch: Callable[[int, bool | None], None],
    ) -> None:
        self.listener = listener
        self._allowed = allowed
        self._on_request = on_request
        self._watch = watch
        self.clients: dict[int, Client] = {}

    def adopt(self, client: Client, now: float) -> None:
        """Take over a connection of the program that was here before. That it was replaced is not the client's slowness."""
        if client.deadline is not None:
            client.deadline = now + REQUEST_LIMIT
        self.clients[client.socket.fileno()] = client
        self._watch(client.socket.fileno(), bool(client.unsent))

    def accept(self, now: float) -> None:
        """Take every connection that waits."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.setblocking(False)
            _pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
            if uid not in self._allowed:
                connection.close()
                continue
            self._make_room()
            self.clients[connection.fileno()] = Client(connection, now + REQUEST_LIMIT)
            self._watch(connection.fileno(), False)

    def ready(self, fd: int) -> None:
        """The client's socket can be read or written."""
        client = self.clients.get(fd)
        if client is None:
            return
        self._write(fd, client)
        if fd in self.clients and not self._read(fd, client):
            self.close(fd)

    def send(self, fd: int, answer: dict[str, Any]) -> None:
        """Send one line; an answer with `exit` is the last one."""
        client = self.clients.get(fd)
        if client is None:
            return
        client.unsent += json.dumps(answer).encode() + b"\n"
        client.finished = client.finished or "exit" in answer
        self._write(fd, client)

    def overdue(self, now: float) -> None:
        """Drop clients that have not asked in time."""
        for fd in [fd for fd, c in self.clients.items() if c.deadline is not None and c.deadline <= now]:
            self.close(fd)

    def next_deadline(self) -> float | None:
        """When `overdue` is to be called; None when nobody is awaited."""
        return min((c.deadline for c in self.clients.values() if c.deadline is not None), default=None)

    def close(self, fd: int) -> None:
        """Forget a client."""
        client = self.clients.pop(fd, None)
        if client is not None:
            self._watch(fd, None)
            client.socket.close()

    def _make_room(self) -> None:
        if len(self.clients) >= MOST_CLIENTS:
            silent = [fd for fd, client in self.clients.items() if not client.asked]
            self.close(silent[0] if silent else next(iter(self.clients)))

    def _read(self, fd: int, client: Client) -> bool:
        """False when the client is to be dropped: it has gone, or it sends nonsense."""
        try:
            data = client.socket.recv(MOST_REQUEST)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            return False
        if client.asked:
            return True
        client.received += data
        line, newline, _rest = client.received.partition(b"\n")
        if not newline:
            return len(client.received) < MOST_REQUEST
        return self._ask(fd, client, bytes(line))

    def _ask(self, fd: int, client: Client, line: bytes) -> bool:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        client.asked, client.deadline = True, None
        if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
            self.send(fd, {"exit": 2, "error": 'a request is one line of JSON like {"verb": "status"}'})
            return True
        self._on_request(fd, request)
        return True

    def _write(self, fd: int, client: Client) -> None:
        try:
            while client.unsent:
                del client.unsent[: client.socket.send(client.unsent, socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            self._watch(fd, True)
            return
        except OSError:
            self.close(fd)
            return
        if client.finished:
            self.close(fd)
        else:
            self._watch(fd, False)
