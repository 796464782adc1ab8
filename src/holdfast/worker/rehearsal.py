"""The dress rehearsal: before its first fork a zygote lives the life of a worker, from the first step to the drain.

CPython counts references inside of objects, and keeps caches inside of code, types and their dictionaries. Whatever a worker does for
the first time writes there, and each page that it writes becomes its own. What was done before the fork is written less after it, and
done sooner.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from holdfast.errors import InternalError
from holdfast.linux.channel import Channel
from holdfast.model.delivery import Delivery, encode
from holdfast.model.job import Job
from holdfast.model.message import Message
from holdfast.model.options import JobOptions
from holdfast.model.spec import WorkerSpec
from holdfast.telemetry import events
from holdfast.worker.boot import STEPS, Boot
from holdfast.worker.trace import reason_of, trace_of

_LEFT_OUT = "specification"  # it would name this process, and let the fault points of a test strike here
_NOWHERE = "/nonexistent"
_MESSAGES = 10
_PATIENCE = 5.0  # seconds; whatever an application has done to threads, its zygote goes on


def rehearse(times: int, store: str = "") -> None:
    """Be a worker with this store for a few messages, so often; leaves no thread, no descriptor and no setting behind, and never raises.

    One that does not end well is the last: with threads that an application has changed, each would take all the time it is given.
    """
    try:
        for _ in range(times):
            with _as_before():
                _rehearse(store)
    except Exception as error:  # each worker will meet it too, and say so
        events.log("zygote.rehearsal", f"{reason_of(error)}\n{trace_of(error)}", level="warning")


def _rehearse(store: str) -> None:
    channel, supervisor = Channel.pair()
    data, ingress = socket.socketpair()
    boot = Boot(_spec(store), _job(supervisor), "handle", channel, None, data.detach())
    boot.leave_by_ns = time.monotonic_ns() + int(_PATIENCE * 1e9)
    with supervisor, ingress:
        supervisor.send(b'{"do":"activate"}')
        for seq in range(1, _MESSAGES + 1):
            ingress.send(encode(("m", [Delivery(seq, b"", time.monotonic_ns())])))
        try:
            for name, step in STEPS:
                if name != _LEFT_OUT:
                    step(boot)
                if name == "store" and boot.store is not None:
                    boot.store.install("", lambda _db: None)
            assert boot.loop is not None
            if boot.loop.run() != 0:
                raise InternalError(f"it was not over in {_PATIENCE:g} s")
        finally:
            _close(boot)


def _close(boot: Boot) -> None:
    """What the process's end would."""
    boot.channel.close()
    os.close(boot.wake.fileno())
    if boot.source is not None:
        boot.source.close()
    elif boot.data_fd is not None:
        os.close(boot.data_fd)
    if boot.store is not None:
        boot.store.close()


def _spec(store: str) -> WorkerSpec:
    options = JobOptions(source="zmq+rep://127.0.0.1:1", store=store, threads=1, batch=_MESSAGES, retries=0, overlap=True)
    options = options if store else replace(options, dead_letter="state_dir")
    spec = WorkerSpec("rehearsal", "worker", "Rehearsal", "Rehearsal", 0, options, _NOWHERE, stop_timeout=_PATIENCE, epoch=1)
    return WorkerSpec.from_json(json.loads(json.dumps(spec.to_json())))


def _job(supervisor: socket.socket) -> type[Job]:
    class Rehearsal(Job):
        left = _MESSAGES

        def handle(self, message: Message) -> bytes:
            self.left -= 1
            if not self.left:
                supervisor.send(b'{"do":"drain"}')
            return message.body

    return Rehearsal


@contextmanager
def _as_before() -> Iterator[None]:
    interval, before = sys.getswitchinterval(), _threads()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        until = time.monotonic() + _PATIENCE
        while _threads() - before and time.monotonic() < until:  # a thread that has ended leaves a moment later
            time.sleep(0.0005)


def _threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))
