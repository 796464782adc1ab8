"""The ingress process: `process.py ingress --channel FD --boot FD --tally FD`."""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
from collections.abc import Callable, Sequence

from holdfast.ingress.loop import Ingress
from holdfast.linux.channel import Channel, from_memfd
from holdfast.linux.flags import flags
from holdfast.model import tally
from holdfast.telemetry import events


def main(arguments: Sequence[str]) -> int:
    """Serve until the supervisor says `leave`, or is gone; returns the exit status."""
    given = flags(arguments)
    boot = json.loads(from_memfd(int(given["boot"])))
    events.configure(worker="ingress", level=boot.get("log_level", "info"))
    _raise_file_limit()
    channel = Channel.from_fd(int(given["channel"]))
    channel.send({"say": "hello", "digest": _digest()})
    ingress = Ingress(channel, boot["stop_timeout"], _board(int(given["tally"])))
    ingress.watch_signals(*_signals())
    ingress.run()
    return 0


def _digest() -> str:
    """Of the code that this is. In a child, since it parses all sources, and what that takes would stay ours."""
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        from holdfast.linux.code import ingress_digest

        os.write(writable, ingress_digest().encode())
        os._exit(0)
    os.close(writable)
    with open(readable) as told:
        digest = told.read()
    os.waitpid(child, 0)
    return digest


def _board(fd: int) -> memoryview:
    return memoryview(mmap.mmap(fd, tally.SIZE))


def _raise_file_limit() -> None:
    """A connection is a descriptor: use all that we are allowed."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _signals() -> tuple[int, Callable[[], bool]]:
    """INT and HUP mean the supervisor, not us. TERM is for us, from outside: returns where to wait for it and how to ask."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    terms: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: terms.append(number))
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)

    def told() -> bool:
        os.read(readable, 4096)
        return bool(terms)

    return readable, told
