"""Binding what the ingress serves. The supervisor binds, passes the descriptor, and keeps a copy.

Bound *without* SO_REUSEPORT, so that a port in use is an error, also for a daemon of the same user; the option is set after the
bind and before the listen, so that a later ingress can still join. With our copy open, the death of an ingress refuses nobody.
"""

from __future__ import annotations

import errno
import os
import socket
import stat

from holdfast.errors import NoRightsError, UnavailableError

BACKLOG = 1024


def bind_tcp(host: str, port: int) -> socket.socket:
    """Bind and listen; UnavailableError when the address is in use or not ours, NoRightsError when the port needs root."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0" if host == "*" else host, port))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setblocking(False)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _explained(error, f"{host}:{port}") from error
    return listener


def join_tcp(listener: socket.socket) -> socket.socket:
    """Another one beside a listener of ours, at the same address. It is bound, and does not listen before somebody steers.

    OSError when that is not possible.
    """
    other = socket.socket(listener.family, socket.SOCK_STREAM)
    try:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(listener.getsockname())
        other.setblocking(False)
    except OSError:
        other.close()
        raise
    return other


def join_unix(path: str) -> socket.socket:
    """A listener that is to take the place of the one at this path, by renaming `coming(path)` over it."""
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(coming(path))
        other.bind(coming(path))
        other.setblocking(False)
        other.listen(BACKLOG)
    except OSError:
        other.close()
        raise
    return other


def coming(path: str) -> str:
    """Where a socket waits to be renamed to this path; not longer than that, which may be as long as a path can be."""
    return f"{path[:-1]}{'~' if path[-1] != '~' else '-'}"


def bind_unix(path: str) -> socket.socket:
    """Bind and listen on a path, in place of a socket that nobody serves any more; UnavailableError when somebody does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _clear(path)
        listener.bind(path)
        listener.setblocking(False)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _explained(error, path) from error
    return listener


def _clear(path: str) -> None:
    """Remove a dead socket. A path that answers, or is something else than a socket, is left as it is."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _explained(error: OSError, address: str) -> UnavailableError | NoRightsError:
    if error.errno == errno.EADDRINUSE:
        return UnavailableError(f"{address} is in use by another process", remedy="stop that one, or choose another address in 'source'")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NoRightsError(
            f"{address} may not be bound by this user", remedy="choose a port from 1024 on, or start as root with 'user' set"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UnavailableError(f"{address} is not an address of this machine", remedy="use 0.0.0.0, 127.0.0.1 or one of its own")
    return UnavailableError(f"cannot listen on {address}: {error.strerror}", remedy="correct 'source'")
