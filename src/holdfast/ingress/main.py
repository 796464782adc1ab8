"""The ingress process: `process.py ingress --channel FD --boot FD --tally FD`."""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import signal
from collections.abc import Callable, Sequence

from holdfast.ingress.loop import Ingress
from holdfast.linux.channel import Channel, from_memfd
from holdfast.linux.code import ingress_digest
from holdfast.model import tally
from holdfast.telemetry import events


def main(arguments: Sequence[str]) -> int:
    """Serve until the supervisor says `leave`, or is gone; returns the exit status."""
    flags = _flags(arguments)
    boot = json.loads(from_memfd(flags.boot))
    events.configure(worker="ingress", level=boot.get("log_level", "info"))
    _raise_file_limit()
    channel = Channel.from_fd(flags.channel)
    channel.send({"say": "hello", "digest": ingress_digest()})
    ingress = Ingress(channel, boot["stop_timeout"], _board(flags.tally))
    ingress.watch_signals(*_signals())
    ingress.run()
    return 0


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ingress")
    for name in ("--channel", "--boot", "--tally"):
        parser.add_argument(name, type=int, required=True)
    return parser.parse_args(arguments)


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
