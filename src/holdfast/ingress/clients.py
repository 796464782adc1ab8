"""How many peers a socket has, and no more of them than are allowed."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from contextlib import suppress

import zmq

from holdfast.linux import door
from holdfast.telemetry import events

_EVENT = struct.Struct("<HI")
_CAME = zmq.EVENT_ACCEPTED | zmq.EVENT_CONNECTED
_names = itertools.count(1)


class Clients:
    """Counts the connections of one ZeroMQ socket by its monitor, and lets in no more than `most`.

    libzmq has no limit of its own. At the limit the door of a TCP listener is shut: who connects waits, in its own kernel,
    until somebody leaves. What slips in before the door is shut, or over a UNIX socket, is cut: usually before its greeting is
    over; what it may have sent by then counts as sent by a client that has gone. So is everybody beyond the limit where the kernel
    lets nobody but root shut a door.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], sock: zmq.Socket[bytes], most: int, listener: int | None) -> None:
        self._most = most
        self._open: set[int] = set()
        self._listener = socket.socket(fileno=os.dup(listener)) if listener is not None else None
        self._door = self._listener if self._listener is not None and self._listener.family != socket.AF_UNIX else None
        self._shut = False
        self._for_good = False
        self._refused = False  # the kernel lets us shut no door
        self._watched = sock
        place = f"inproc://clients-{next(_names)}"
        # ZAP could refuse a peer before its greeting is over, but with ZAP libzmq refuses all who speak ZMTP 1.0 and 2.0.
        sock.monitor(place, _CAME | zmq.EVENT_DISCONNECTED)
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.set(zmq.RCVHWM, 0)  # else a stalled loop would block libzmq's own thread
        self._monitor.set(zmq.LINGER, 0)
        self._monitor.connect(place)
        if self._door is not None:  # an ingress that died may have left it shut
            self._try(False)
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

    def limit(self, most: int) -> None:
        """So many from now on; those beyond stay until they leave."""
        self._most = most
        self._move_door(len(self._open) >= most)

    def shut_for_good(self) -> None:
        """Nobody comes in any more. (A UNIX listener has no such door: its path is taken away instead.)"""
        self._for_good = True
        self._move_door(True)

    def _happened(self, event: int, fd: int) -> int:
        cut = 0
        if event & _CAME:
            self._open.add(fd)
            beyond = len(self._open) > self._most or (self._for_good and self._refused)
            if beyond and self._listener is not None:
                cut = _cut(fd, _own(self._listener))
        else:
            self._open.discard(fd)
        self._move_door(len(self._open) >= self._most)
        return cut

    def _move_door(self, shut: bool) -> None:
        shut = shut or self._for_good
        if self._door is not None and shut != self._shut:
            self._try(shut)
            self._shut = shut

    def _try(self, shut: bool) -> None:
        assert self._door is not None
        try:
            (door.shut if shut else door.open_again)(self._door)
        except PermissionError as error:
            if not self._refused:
                text = f"the kernel lets us shut no door ({error.strerror}): who comes when it should be shut is cut"
                events.log("door.refused", text, "warning")
            self._refused = True

    def close(self) -> None:
        """The listener stays as it was found, since the supervisor has it too; unless it was shut for good."""
        self._move_door(False)
        if self._listener is not None:
            self._listener.close()
        self._watched.disable_monitor()
        self._monitor.close(0)


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
