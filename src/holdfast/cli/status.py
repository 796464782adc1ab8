"""`status`: what the daemon says of itself, or what its files say when it does not; LSB's exit statuses."""

from __future__ import annotations

import argparse
import os
from typing import Any

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.following import ask, guard_path, lock_path, pid_path
from holdfast.cli.status_view import lines
from holdfast.errors import HoldfastError, NotRunningError
from holdfast.linux.holder import holder
from holdfast.model.options import DaemonOptions

RUNNING, DEAD, NOT_RUNNING, UNKNOWN = 0, 1, 3, 4

_TIMEOUT = 10.0


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Show the state; the exit status is the state, too."""
    facts, status = _look(call.whereabouts())
    if arguments.json:
        output.say_json(facts)
    else:
        for line in lines(facts):
            output.say(line)
    return status


def _look(options: DaemonOptions) -> tuple[dict[str, Any], int]:
    try:
        answer = ask(options, {"verb": "status"}, _TIMEOUT)
    except NotRunningError:
        return _from_files(options)
    except (TimeoutError, HoldfastError) as error:
        return _bare(options, "unknown", None, str(error)), UNKNOWN
    if answer is None or answer["exit"] or not isinstance(answer.get("result"), dict):
        return _bare(options, "unknown", None, str((answer or {}).get("error", "the daemon went without an answer"))), UNKNOWN
    return answer["result"], RUNNING


def _from_files(options: DaemonOptions) -> tuple[dict[str, Any], int]:
    """Nobody listens: the lock tells whether a supervisor is there, the PID file whether one has died."""
    with holder(lock_path(options)) as found:
        if found is not None:
            return _bare(options, "unknown", found.pid, "the supervisor does not listen: it is starting, or about to end"), UNKNOWN
    with holder(guard_path(options)) as guard:
        if guard is not None and guard.note:
            return {**_bare(options, "dead", None, guard.note), "guarded": True, "guard_pid": guard.pid}, DEAD
    if os.path.isfile(path := pid_path(options)):
        return _bare(options, "dead", None, f"no supervisor runs; {path} is left of one, and the next start cleans up"), DEAD
    return _bare(options, "stopped", None, ""), NOT_RUNNING


def _bare(options: DaemonOptions, state: str, pid: int | None, reason: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": options.name, "state": state, "pid": pid, "jobs": [], "programs": []}
    return {**facts, "reason": reason} if reason else facts


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: one object, all numbers plain")


COMMAND = Command(
    name="status",
    summary="Show whether it runs, its jobs and its workers.",
    details="Show the daemon, its jobs and its workers. Needs neither the app nor a configuration that is right.\n\n"
    "exit status: 0 running, 1 dead but its PID file is left, 3 not running, 4 unknown",
    run=run,
    configure=_configure,
    statuses={1: UNKNOWN, 2: UNKNOWN, 5: UNKNOWN, 7: UNKNOWN, 70: UNKNOWN},
)
