"""The zygote: imports the application once and forks everything that runs it, for one generation of its code.

One thread, no connections. What it forks is the loaded generation, whatever has happened to the files since. A twin is the same
zygote, forked in its turn and waiting on a channel of its own, for the case that this one is killed.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from holdfast.errors import AppError, HoldfastError
from holdfast.linux.autogroup import FULL, set_share
from holdfast.linux.channel import Channel, Packet, from_memfd, to_memfd
from holdfast.linux.flags import flags
from holdfast.linux.fork import fork_away
from holdfast.linux.pages import give_back_code
from holdfast.linux.process import PR_SET_NAME, prctl
from holdfast.model.spec import WorkerSpec
from holdfast.telemetry import events
from holdfast.worker import logs
from holdfast.worker.application import Application, load
from holdfast.worker.boot import Boot, live
from holdfast.worker.executed import execute
from holdfast.worker.freezing import freeze
from holdfast.worker.leftovers import leftovers, snapshot
from holdfast.worker.offspring import become_clean, close_all, default_signals, give_stacks, leave
from holdfast.worker.preload import preload, use
from holdfast.worker.saying import say, say_failed
from holdfast.worker.trace import reason_of, trace_of


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child was born with, in the child."""

    spec: WorkerSpec
    fds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Generation:
    """What this zygote has loaded."""

    boot: Mapping[str, Any]
    application: Application
    unforkable: Sequence[str]


def main(arguments: list[str]) -> NoReturn:
    """Load, then serve the channel; ends by os._exit alone, since what the import registered with atexit is every child's."""
    given = flags(arguments)
    try:
        channel = Channel.from_fd(int(given["channel"]))
        os.set_inheritable(channel.fileno(), False)
        generation = _load(channel, json.loads(from_memfd(int(given["boot"]))))
        while True:
            channel = _be_born(_serve(channel, generation), generation)
    except BaseException as error:
        events.log("zygote.broken", f"{reason_of(error)}\n{trace_of(error)}", level="error")
        leave(70)


def _load(channel: Channel, boot: Mapping[str, Any]) -> Generation:
    """Import the application, say what it declares, freeze. On failure: say why, end with 1."""
    events.configure(worker="zygote")
    logs.bridge()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for module in boot.get("preload", ()):
        importlib.import_module(module)
    preload(boot.get("settings_path", ""))
    before = snapshot()
    try:
        application = load(boot["app"], boot["directory"])
        unforkable = leftovers(before)
        if unforkable and not boot.get("allow_threads"):
            raise _cannot_fork(unforkable)
    except BaseException as error:
        say_failed(channel, error, 1)
        leave(1)
    declarations = [declaration.to_json() for declaration in application.declarations]
    # What was printed so far must not be printed again by every child.
    sys.stdout.flush()
    sys.stderr.flush()
    default_signals()
    freeze()
    say(channel, {"say": "loaded", "jobs": declarations, "default": application.default, "digest": application.digest})
    return Generation(boot, application, unforkable)


def _use(generation: Generation, schemes: Sequence[str]) -> None:
    """The configuration is known: get ready to fork what it asks for."""
    use(schemes)
    give_back_code()
    freeze()
    if generation.boot.get("modest"):
        set_share(FULL, patience=1.0)


def _cannot_fork(found: Sequence[str]) -> AppError:
    return AppError(
        f"the import left open what a fork would break: {', '.join(found)}",
        remedy='make it in setup() or setup_process(), or set spawn = "exec"',
    )


def _serve(channel: Channel, generation: Generation) -> Birth:
    """Answer the supervisor until it leaves; returns only in a child that was born meanwhile."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        poll.poll()
        try:
            received = channel.receive()
        except EOFError:
            leave(0)
        if received is None:
            continue
        packet, fds = received
        if packet.get("do") == "spawn":
            birth = _spawn(channel, generation, packet, fds)
            if birth is not None:
                return birth
        else:
            close_all(fds)
            if packet.get("do") == "leave":
                leave(0)
            if packet.get("do") == "use":
                _use(generation, packet["schemes"])


def _spawn(channel: Channel, generation: Generation, packet: Packet, fds: list[int]) -> Birth | None:
    """Fork one child; in the child, what it was born with."""
    try:
        birth = _birth(generation, packet, fds)
        pid = fork_away()
    except (HoldfastError, OSError, ValueError, LookupError, TypeError) as error:
        close_all(fds)
        say(channel, {"say": "spawn-failed", "id": packet.get("id"), "reason": reason_of(error)})
        return None
    if pid == 0:
        channel.close()
        return birth
    close_all(fds)
    say(channel, {"say": "spawned", "id": packet["id"], "pid": pid})
    return None


def _birth(generation: Generation, packet: Packet, fds: Sequence[int]) -> Birth:
    named = dict(zip(packet["fds"], fds, strict=True))  # fewer arrive when this process has no descriptor left
    spec = WorkerSpec.from_json(json.loads(os.pread(named["spec"], os.fstat(named["spec"]).st_size, 0)))
    if not {"channel", "log"} <= named.keys():
        raise AppError(f"descriptors {', '.join(sorted(named))} are not enough")
    if spec.role != "twin":
        if spec.cls not in generation.application.classes:
            raise AppError(f"no Job class {spec.cls!r} in this generation")
        if generation.unforkable and spec.options.spawn == "fork":
            raise _cannot_fork(generation.unforkable)
    return Birth(spec, named)


def _be_born(birth: Birth, generation: Generation) -> Channel:
    """Become what was asked for; only a twin returns, with its channel."""
    become_clean(birth.fds["log"])
    spec = birth.spec
    prctl(PR_SET_NAME, b"hf:twin" if spec.role == "twin" else f"hf:{spec.id.partition('.')[0]}".encode()[:15])
    if spec.role != "twin" and spec.options.spawn == "exec":
        execute(to_memfd("boot", json.dumps(dict(generation.boot)).encode()), birth.fds)
    os.close(birth.fds["spec"])
    if "stacks" in birth.fds:
        give_stacks(birth.fds["stacks"])
    channel = Channel.from_fd(birth.fds["channel"])
    if spec.role != "twin":
        cls = generation.application.classes[spec.cls]
        live(Boot(spec, cls, generation.application.work_of(cls), channel, birth.fds.get("board"), birth.fds.get("data")))
    events.configure(worker="twin")
    say(channel, {"say": "twin"})
    return channel
