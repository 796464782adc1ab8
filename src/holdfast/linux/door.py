"""A listening TCP socket that lets nobody in for a while, without being closed."""

from __future__ import annotations

import socket

from holdfast.linux import classic

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27

_FLAGS = 13  # where the flags are in a TCP header, which is what the filter of a listener sees
_SYN, _SYN_ACK = 0x02, 0x12

#: Whoever has been answered already must be able to finish its greeting: only packets that would begin a connection are dropped.
_DROP_BEGINNINGS = (
    (classic.LOAD_BYTE, 0, 0, _FLAGS),
    (classic.AND, 0, 0, _SYN_ACK),
    (classic.JUMP_IF_EQUAL, 0, 1, _SYN),
    (classic.RETURN, 0, 0, 0),
    (classic.RETURN, 0, 0, 0xFFFFFFFF),
)


def shut(listener: socket.socket) -> None:
    """Drop every packet that would begin a connection: who connects waits and tries again, as TCP does, and sees no error.

    Connections that are open, or accepted by the kernel already, or half way there, are not concerned.
    """
    classic.attach(listener, _SO_ATTACH_FILTER, _DROP_BEGINNINGS)


def open_again(listener: socket.socket) -> None:
    """Let connections in; also when the door was open."""
    classic.detach(listener, _SO_DETACH_FILTER)
