"""A listening TCP socket that lets nobody in for a while, without being closed."""

from __future__ import annotations

import array
import socket
import struct

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_RETURN = 0x06  # classic BPF: BPF_RET | BPF_K


def shut(listener: socket.socket) -> None:
    """Drop every packet that would open a connection: who connects waits and tries again, as TCP does, and sees no error.

    Connections that are open, or accepted by the kernel already, are not concerned.
    """
    code = array.array("B", struct.pack("=HBBI", _RETURN, 0, 0, 0))
    address, _length = code.buffer_info()
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, address))


def open_again(listener: socket.socket) -> None:
    """Let connections in; also when the door was open."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except FileNotFoundError:
        return
