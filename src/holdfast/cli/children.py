"""Work that must not be done here: importing the app, opening stores. Done in children that have dropped to the service user.

The command itself may be root's, so it never touches user code, a driver, or what a message brought (G8).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast import errors
from holdfast.cli.preflight import Ground
from holdfast.errors import AppError, HoldfastError
from holdfast.linux import process
from holdfast.linux.channel import Packet, from_memfd
from holdfast.model.configuration import Configuration, resolve
from holdfast.model.spec import Declaration
from holdfast.supervisor.inputs import secrets_as
from holdfast.supervisor.offspring import Launch, Process, start

_PATIENCE = 60.0
_LEAVE = 5.0


@dataclass(frozen=True, slots=True)
class Described:
    """What the app declares."""

    declarations: list[Declaration]
    default: list[str]


def configured(ground: Ground) -> Configuration:
    """The whole configuration, for which the app has to be imported once. HoldfastError says what is wrong."""
    described = describe(ground)
    return resolve(ground.inputs, described.declarations, described.default, secrets_as(ground.identity))


def describe(ground: Ground) -> Described:
    """Import the app in a child and bring back what it declares. AppError, with the traceback, when it cannot be imported."""
    boot = {
        "app": ground.options.app,
        "directory": ground.inputs.directory,
        "generation": 0,
        "settings_path": "",
        "settings_text": None,
        "allow_threads": True,
        "preload": [],
    }
    packet = run_child("zygote", boot, ground)
    return Described([Declaration.from_json(one) for one in packet["jobs"]], list(packet["default"]))


def clerk(task: str, ground: Ground, **details: Any) -> Any:
    """Have a task of `holdfast.cli.clerk` done; its result. HoldfastError as the clerk raised it."""
    return run_child("clerk", {"task": task, "directory": ground.inputs.directory, **details}, ground)["result"]


def run_child(kind: str, boot: Mapping[str, Any], ground: Ground) -> Packet:
    """Start a process of this kind, take its first packet, end it. HoldfastError when it failed or died."""
    with _output() as log:
        child = start(
            Launch(
                kind=kind,
                boot=boot,
                directory="/",
                umask=int(ground.options.umask, 8),
                environ=ground.inputs.environ,
                identity=ground.identity,
                log_fd=log,
            )
        )
        try:
            received = _receive(child)
        finally:
            ended = _leave(child)
        if received is None:
            raise AppError(
                f"the {_title(kind)} ended the process ({ended})", trace=_tail(log), remedy="correct what it does when it is imported"
            )
    return _opened(*received)


def _title(kind: str) -> str:
    return "import of the app" if kind == "zygote" else "command"


def _receive(child: Process) -> tuple[Packet, list[int]] | None:
    """The child's word; None when it ended without one. AppError when it says nothing in time."""
    poll = select.poll()
    poll.register(child.channel.fileno(), select.POLLIN)
    limit = time.monotonic() + _PATIENCE
    while (left := limit - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            try:
                received = child.channel.receive()
            except EOFError:
                return None
            if received is not None:
                return received
    raise AppError(f"the app was not imported within {_PATIENCE:g} s", remedy="do slow work in setup()")


def _opened(packet: Packet, fds: list[int]) -> Packet:
    """A packet with what travelled beside it; raises what it says when it tells of a failure."""
    texts = [from_memfd(fd) for fd in fds]
    if packet["say"] == "failed":
        kind = getattr(errors, str(packet.get("kind", "")), AppError)
        error: HoldfastError = kind(str(packet["reason"]))
        error.where, error.remedy = str(packet.get("where", "")), str(packet.get("remedy", ""))
        if isinstance(error, AppError):
            error.trace = "".join(text.decode(errors="replace") for text in texts)
        raise error
    return {**packet, "result": json.loads(texts[0])} if texts else packet


def _leave(child: Process) -> str:
    """Let the child go, and see it gone; how it ended."""
    child.channel.send({"do": "leave"})
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    if not poll.poll(_LEAVE * 1000):
        process.pidfd_kill(child.pidfd, signal.SIGKILL)
        poll.poll()
    how = process.reap(child.pid)
    child.close()
    return str(how)


@contextmanager
def _output() -> Iterator[int]:
    """Where a child's standard streams go: a file in memory, shown only when nothing else tells what happened."""
    fd = os.memfd_create("output", os.MFD_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _tail(log: int) -> str:
    with contextlib.suppress(OSError):
        text = os.pread(log, 1 << 20, 0).decode(errors="replace")
        return "\n".join(line for line in text.splitlines() if not line.startswith("\x1e"))[-4000:]
    return ""
