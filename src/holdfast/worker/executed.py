"""A worker in an interpreter of its own (`spawn = "exec"`): for applications whose import starts what no fork survives.

It imports the application itself, so it runs what the files hold now, not what its generation had loaded.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from collections.abc import Mapping
from typing import NoReturn

import holdfast.process
from holdfast.errors import AppError
from holdfast.linux.channel import Channel, from_memfd
from holdfast.linux.flags import flags
from holdfast.linux.process import PR_SET_NAME, prctl
from holdfast.model.spec import WorkerSpec
from holdfast.telemetry import events
from holdfast.worker import logs
from holdfast.worker.application import load
from holdfast.worker.boot import Boot, live
from holdfast.worker.offspring import give_stacks, leave
from holdfast.worker.saying import say_failed

_OPTIONAL = ("board", "data", "stacks")


def execute(boot_fd: int, fds: Mapping[str, int]) -> NoReturn:
    """Replace this process by a fresh interpreter that goes on with the same descriptors."""
    words = [sys.executable, holdfast.process.__file__, "worker", "--boot", str(boot_fd)]
    for name in ("channel", "spec", *(name for name in _OPTIONAL if name in fds)):
        words += [f"--{name}", str(fds[name])]
    for fd in (boot_fd, *(fds[name] for name in fds if name != "log")):
        os.set_inheritable(fd, True)
    os.execv(sys.executable, words)


def main(arguments: list[str]) -> NoReturn:
    """Be the worker."""
    given = {name: int(fd) for name, fd in flags(arguments).items()}
    for name in given.keys() & {"channel", *_OPTIONAL}:
        os.set_inheritable(given[name], False)
    channel = Channel.from_fd(given["channel"])
    boot = json.loads(from_memfd(given["boot"]))
    spec = WorkerSpec.from_json(json.loads(from_memfd(given["spec"])))
    prctl(PR_SET_NAME, f"hf:{spec.id.partition('.')[0]}".encode()[:15])
    events.configure(job=spec.job, worker=spec.id)
    logs.bridge()
    faulthandler.enable(2)
    if "stacks" in given:
        give_stacks(given["stacks"])
    try:
        application = load(boot["app"], boot["directory"])
        if spec.cls not in application.classes:
            raise AppError(f"no Job class {spec.cls!r} in {boot['app']}", remedy="reload")
    except BaseException as error:
        say_failed(channel, error, 1)
        leave(1)
    cls = application.classes[spec.cls]
    live(Boot(spec, cls, application.work_of(cls), channel, given.get("board"), given.get("data")))
