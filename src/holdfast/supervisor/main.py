"""The supervisor process: `process.py supervisor --boot FD [--report FD] [--locks FD,FD]`, or `--state FD` after an upgrade."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import holdfast
from holdfast.errors import HoldfastError, InternalError
from holdfast.linux.channel import from_memfd
from holdfast.linux.flags import flags
from holdfast.model.configuration import daemon_options
from holdfast.model.inputs import Inputs
from holdfast.model.options import DaemonOptions
from holdfast.supervisor import inputs as reading
from holdfast.supervisor import trust
from holdfast.supervisor.commands import Commands
from holdfast.supervisor.daemon import Read, Supervisor
from holdfast.supervisor.generation import Generation
from holdfast.supervisor.ground import Ground, become_reaper, read_settings
from holdfast.supervisor.instance import BusyError, Instance
from holdfast.supervisor.loop import Loop
from holdfast.supervisor.offspring import CALLED
from holdfast.supervisor.report import Report
from holdfast.supervisor.state import Envelope
from holdfast.supervisor.succession import Succession, go_back, go_on, restored
from holdfast.telemetry import events


def main(arguments: Sequence[str]) -> int:
    """Start, run, stop; returns the exit status. Does not return when it restarts: it executes itself, with the same PID."""
    given = flags(arguments)
    if "state" in given:
        return _go_on(int(given["state"]))
    document = json.loads(from_memfd(int(given["boot"])))
    report = Report(int(given["report"]) if "report" in given else None)
    commands = Commands(report)
    try:
        ground, first = _found(document, [int(fd) for fd in given.get("locks", "").split(",") if fd])
        supervisor = Supervisor(ground, first, _reader(document, ground), Loop(commands.signalled), commands.concluded, report.progress)
        supervisor.succession = Succession(document, CALLED, commands)
        _serve(commands, supervisor)
    except BusyError as busy:
        report.busy(busy.pid)
        return 0 if "report" in given else 2
    except HoldfastError as error:
        report.verdict({"exit": error.exit_status, "error": str(error)})
        return error.exit_status
    return _live(supervisor, commands)


def _serve(commands: Commands, supervisor: Supervisor) -> None:
    try:
        commands.serve(supervisor)
    except HoldfastError:
        supervisor.ground.instance.remove()
        raise


def _go_on(fd: int) -> int:
    """Take the place of the program that was executed here before."""
    envelope = Envelope.from_bytes(from_memfd(fd))
    try:
        supervisor, commands, state = restored(envelope, _reader)
    except BaseException as error:  # whatever it is, the one before may still go on
        return go_back(envelope, error)
    go_on(supervisor, commands, state, envelope.refused)
    return _live(supervisor, commands)


def _found(document: dict[str, Any], locks: list[int]) -> tuple[Ground, Generation]:
    """The steps before the first child: configuration, identity, trust, directories, lock, left-overs, PID file."""
    inputs, options = _configured(document)
    identity, _remarks = reading.service_identity(options)
    trust.check(inputs, options.app, identity)
    os.umask(int(options.umask, 8))
    instance = Instance(options.run_dir, options.state_dir, options.name, identity)
    instance.make_directories()
    if locks:
        instance.adopt(locks)
    else:
        instance.lock(options.app)
    instance.end_leftovers()
    instance.write_pid()
    become_reaper()
    os.set_inheritable(terminal := os.dup(2), False)
    ground = Ground(
        options=options,
        identity=identity,
        instance=instance,
        environ=dict(document["environ"]),
        foreground=document["foreground"],
        version=holdfast.__version__,
        pid=os.getpid(),
        terminal=terminal,
        guard=document.get("guard", 0),
    )
    return ground, Generation(1, inputs, options, read_settings(options, identity))


def _configured(document: dict[str, Any]) -> tuple[Inputs, DaemonOptions]:
    inputs = reading.load(document["target"], dict(document["flags"]), dict(document["environ"]), document["cwd"], document["foreground"])
    return inputs, daemon_options(inputs, reading.read_secret)[0]


def _reader(document: dict[str, Any], ground: Ground) -> Read:
    """Reads the files as they are then, for a reload."""

    def read() -> tuple[Inputs, DaemonOptions, str | None]:
        inputs, options = _configured(document)
        trust.check(inputs, options.app, ground.identity)
        return inputs, options, read_settings(options, ground.identity)

    return read


def _live(supervisor: Supervisor, commands: Commands) -> int:
    while supervisor.done is None:
        try:
            supervisor.run_once(commands.next_deadline())
            commands.overdue()
        except HoldfastError as error:
            supervisor.fail(error)
        except Exception as error:  # our own bug must not end the daemon: say it, go on
            events.log("supervisor.bug", f"{type(error).__name__}: {error}", level="error", trace=_trace())
            supervisor.fail(InternalError(f"{type(error).__name__}: {error}", remedy="please report this"))
    commands.close()
    if supervisor.restarting:
        supervisor.succession.begin_afresh(supervisor.ground)
    return supervisor.done or 0


def _trace() -> str:
    import traceback

    return traceback.format_exc()
