"""The control socket's client part: one request, then a stream of answers, each a line of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.errors import InternalError, NoRightsError, NotRunningError

Answer = dict[str, Any]


def request(run_dir: str, name: str, message: Mapping[str, Any], timeout: float | None = None) -> Iterator[Answer]:
    """Send one request and yield its answers; the last one has `exit`, unless the daemon has gone before it could say it.

    The connection is made at once, not at the first `next`. `timeout` is in seconds for the whole conversation.

    Raises NotRunningError when nobody listens, NoRightsError when we may not ask, TimeoutError when the time is over.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    connection = connect(run_dir, name, deadline)
    return _converse(connection, message, deadline)


def connect(run_dir: str, name: str, deadline: float | None = None) -> socket.socket:
    """A connection to RUN_DIR/NAME.sock; through /proc/self/fd, since a UNIX path is at most 107 bytes long."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = -1
    try:
        folder = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _limit(connection, deadline)
        connection.connect(f"/proc/self/fd/{folder}/{name}.sock")
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        connection.close()
        raise NotRunningError(f"{name} is not running") from None
    except BlockingIOError:
        connection.close()
        raise TimeoutError("too many clients wait for an answer") from None
    except PermissionError:
        connection.close()
        raise NoRightsError(f"this user may not talk to {name} in {run_dir}", remedy="be root, or the user who started it") from None
    except BaseException:
        connection.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    return connection


def _converse(connection: socket.socket, message: Mapping[str, Any], deadline: float | None) -> Iterator[Answer]:
    with connection:
        # Refused requests are answered and closed before they are read; the answer is what matters.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(json.dumps(message).encode() + b"\n", socket.MSG_NOSIGNAL)
        for line in _lines(connection, deadline):
            answer = _decoded(line)
            yield answer
            if "exit" in answer:
                return


def _lines(connection: socket.socket, deadline: float | None) -> Iterator[bytes]:
    buffer = bytearray()
    while True:
        _limit(connection, deadline)
        try:
            data = connection.recv(1 << 16)
        except ConnectionResetError:
            return
        if not data:
            return
        buffer += data
        *whole, rest = bytes(buffer).split(b"\n")
        buffer = bytearray(rest)
        yield from whole


def _decoded(line: bytes) -> Answer:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise InternalError(f"the daemon's answer makes no sense: {line[:80]!r}")
    return answer


def _limit(connection: socket.socket, deadline: float | None) -> None:
    if deadline is None:
        connection.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    connection.settimeout(left)
