"""The channel between the supervisor and each of its processes: whole packets of JSON, with file descriptors.

SOCK_SEQPACKET keeps packet bounds, so that no packet is ever half read, also across an exec of the supervisor. A packet
is at most 64 KiB; what may be larger (specifications, tracebacks) travels in a memfd.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

LIMIT = 65536
MOST_FDS = 16

Packet = dict[str, Any]


class Channel:
    """One end. Never blocks: `send` says whether the packet went out, `receive` gives None when nothing waits."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Take over an inherited descriptor."""
        return cls(socket.socket(fileno=fd))

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """A channel, and the other end to hand over."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, packet: Packet, fds: Sequence[int] = ()) -> bool:
        """Send one packet; False when the peer is gone or reads nothing (the packet is not sent then)."""
        data = json.dumps(packet, separators=(",", ":")).encode()
        if len(data) > LIMIT:
            raise ValueError(f"packet of {len(data)} bytes, the limit is {LIMIT}")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> tuple[Packet, list[int]] | None:
        """The next packet and its descriptors (close-on-exec), None when nothing waits; EOFError when the peer is gone."""
        try:
            data, ancillary, _flags, _address = self._socket.recvmsg(
                LIMIT, socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        except ConnectionResetError:
            raise EOFError from None
        if not data:
            raise EOFError
        fds: list[int] = []
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                fds.extend(numbers)
        return json.loads(data), fds

    def close(self) -> None:
        self._socket.close()


def to_memfd(name: str, data: bytes) -> int:
    """Put bytes of any length into a memfd (close-on-exec), to be sent with a packet."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def from_memfd(fd: int) -> bytes:
    """Read all that a memfd holds, and close it."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0) if size else b""
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    os.close(fd)
    return data
