"""Words to the supervisor that must not get lost while it is busy."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

from holdfast.linux.channel import Channel, Packet, to_memfd
from holdfast.worker.trace import reason_of, trace_of

_PATIENCE_MS = 10_000


def say(channel: Channel, packet: Packet, fds: Sequence[int] = ()) -> bool:
    """Send, waiting while the supervisor's queue is full; False when it has gone, or reads nothing for ten seconds."""
    if channel.send(packet, fds):
        return True
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLOUT)
    for _fd, event in poll.poll(_PATIENCE_MS):
        return not event & (select.POLLHUP | select.POLLERR) and channel.send(packet, fds)
    return False


def say_failed(channel: Channel, error: BaseException, exit_status: int, during: str = "") -> None:
    """Say why this process cannot do its work; the traceback travels in a memfd."""
    reason = reason_of(error)
    if during and not reason.startswith(f"{during}: "):
        reason = f"{during}: {reason}"
    _say_with_trace(channel, {"say": "failed", "reason": reason[:4000], "exit": exit_status}, error)


def say_refused(channel: Channel, number: int, error: BaseException) -> None:
    """Say why new settings were not taken; the traceback travels in a memfd."""
    _say_with_trace(channel, {"say": "reload-failed", "id": number, "reason": reason_of(error)[:4000]}, error)


def _say_with_trace(channel: Channel, packet: Packet, error: BaseException) -> None:
    fd = to_memfd("trace", trace_of(error).encode(errors="backslashreplace"))
    say(channel, packet, [fd])
    os.close(fd)
