"""The supervisor process: `process.py supervisor --boot FD [--report FD] [--locks FD,FD]`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from holdfast.errors import HoldfastError, InternalError
from holdfast.linux.channel import from_memfd, to_memfd
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
from holdfast.supervisor.offspring import ENTRY, STANDARD_LIBRARY_ONLY
from holdfast.supervisor.report import Report
from holdfast.telemetry import events


def main(arguments: Sequence[str]) -> int:
    """Start, run, stop; returns the exit status. Does not return when it restarts: it executes itself, with the same PID."""
    flags = _flags(arguments)
    document = json.loads(from_memfd(flags.boot))
    report = Report(flags.report)
    try:
        ground, first = _found(document, [int(fd) for fd in flags.locks.split(",") if fd])
    except BusyError as busy:
        report.busy(busy.pid)
        return 2 if flags.report is None else 0
    except HoldfastError as error:
        report.verdict({"exit": error.exit_status, "error": str(error)})
        return error.exit_status
    supervisor = _live(ground, first, lambda: _read(document, ground), report)
    if supervisor.restarting:
        _again(document, ground.instance.locks, ground.terminal)
    return supervisor.done or 0


def _flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="supervisor")
    parser.add_argument("--boot", type=int, required=True)
    parser.add_argument("--report", type=int)
    parser.add_argument("--locks", default="")
    return parser.parse_args(arguments)


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
        version=document["version"],
        pid=os.getpid(),
        terminal=terminal,
        guard=document.get("guard", 0),
    )
    return ground, Generation(1, inputs, options, read_settings(options, identity))


def _configured(document: dict[str, Any]) -> tuple[Inputs, DaemonOptions]:
    inputs = reading.load(document["target"], dict(document["flags"]), dict(document["environ"]), document["cwd"], document["foreground"])
    return inputs, daemon_options(inputs, reading.read_secret)[0]


def _read(document: dict[str, Any], ground: Ground) -> tuple[Inputs, DaemonOptions, str | None]:
    """The files as they are now, for a reload."""
    inputs, options = _configured(document)
    trust.check(inputs, options.app, ground.identity)
    return inputs, options, read_settings(options, ground.identity)


def _live(ground: Ground, first: Generation, read: Read, report: Report) -> Supervisor:
    commands = Commands(report)
    loop = Loop(commands.signalled)
    supervisor = Supervisor(ground, first, read, loop, commands.concluded, report.progress)
    commands.serve(supervisor)
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
    return supervisor


def _trace() -> str:
    import traceback

    return traceback.format_exc()


def _again(document: dict[str, Any], locks: Sequence[int], terminal: int) -> None:
    """Execute afresh, with the same PID and locks. Signals are blocked until the new program has its handlers, so none kills it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    boot = to_memfd("supervisor-boot", json.dumps(document).encode())
    for fd in (boot, *locks):
        os.set_inheritable(fd, True)
    words = ["supervisor", "--boot", str(boot), "--locks", ",".join(map(str, locks))]
    os.execve(sys.executable, [sys.executable, *STANDARD_LIBRARY_ONLY, ENTRY, *words], document["environ"])
