"""How many peers a socket has, and no more of them than are allowed."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from contextlib import suppress

import zmq

_EVENT = struct.Struct("<HI")
_CAME = zmq.EVENT_ACCEPTED | zmq.EVENT_CONNECTED
_names = itertools.count(1)


class Clients:
    """Counts the connections of one ZeroMQ socket by its monitor, and cuts what is beyond `most`.

    libzmq has no limit of its own. A peer that is cut is accepted first, and cut before its greeting is over unless the loop
    is busy: what such a peer may have sent by then counts as sent by a client that has gone.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], sock: zmq.Socket[bytes], most: int, listener: int | None) -> None:
        self._most = most
        self._open: set[int] = set()
        self._address = _address(listener)
        self._watched = sock
        place = f"inproc://clients-{next(_names)}"
        sock.monitor(place, _CAME | zmq.EVENT_DISCONNECTED)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.set(zmq.RCVHWM, 0)  # else a stalled loop would block libzmq's own thread
        self._monitor.set(zmq.LINGER, 0)
        self._monitor.connect(place)
        self.read()  # a pipe tells of what is new only once it has been found empty

    def __len__(self) -> int:
        return len(self._open)

    def fileno(self) -> int:
        return int(self._monitor.get(zmq.FD))

    def read(self) -> int:
        """Take in what has happened to connections; returns how many were cut."""
        cut = 0
        with suppress(zmq.Again):
            while True:
                event, fd = _EVENT.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0])
                cut += self._happened(event, fd)
        return cut

    def _happened(self, event: int, fd: int) -> int:
        if not event & _CAME:
            self._open.discard(fd)
            return 0
        self._open.add(fd)
        if len(self._open) <= self._most or self._address is None:
            return 0
        return _cut(fd, self._address)

    def close(self) -> None:
        self._watched.disable_monitor()
        self._monitor.close(0)


def _address(listener: int | None) -> object:
    """What the connections of a listener have in common: the port, or the path; None without a listener."""
    if listener is None:
        return None
    with socket.socket(fileno=os.dup(listener)) as ours:
        return _own(ours)


def _own(sock: socket.socket) -> object:
    name = sock.getsockname()
    return name[1] if isinstance(name, tuple) else name


def _cut(fd: int, address: object) -> int:
    """End a connection that libzmq owns, if it still is one.

    The number may have been given to another file by now, so it is looked at first. (No copy is made for that: the moment
    when connections must be cut may be the one in which no descriptor is to be had.)
    """
    try:
        connection = socket.socket(fileno=fd)
    except OSError:  # closed, or not a socket any more
        return 0
    try:
        connection.getpeername()  # the listener itself has none
        if _own(connection) != address:
            return 0
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return 0
    finally:
        connection.detach()
    return 1
