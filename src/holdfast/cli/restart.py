"""`restart`: check first; then the supervisor drains and begins afresh with the same PID."""

from __future__ import annotations

import argparse

from holdfast.cli import output
from holdfast.cli.check import check
from holdfast.cli.command import Call, Command
from holdfast.cli.following import ask, follow
from holdfast.cli.launching import GRACE
from holdfast.cli.preflight import Ground
from holdfast.cli.start import conclude, start
from holdfast.errors import AppError, NotRunningError, RefusedError


def run(_arguments: argparse.Namespace, call: Call) -> int:
    """Restart what runs, or start what does not. What is wrong is found before anything is stopped."""
    checked = check(call)
    for warning in checked.warnings:
        output.note(warning)
    try:
        return _restart(checked.ground)
    except NotRunningError:
        return start(call, checked.ground)


def _restart(ground: Ground) -> int:
    options = ground.options
    try:
        answer = ask(options, {"verb": "restart"}, options.stop_timeout + GRACE)
    except TimeoutError:
        raise AppError(f"{options.name} did not end its work in time", remedy="try 'stop', which ends it, then 'start'") from None
    if answer is not None and answer["exit"]:
        raise RefusedError(str(answer.get("error", "the daemon refused to restart")))
    # The connection ended with the old program; the new one has the same lock, and answers when it listens.
    verdict = follow(options, options.start_timeout + GRACE)
    if verdict is None:
        raise AppError(f"{options.name} ended instead of starting again", remedy="see its log, then 'start'")
    return conclude(verdict, ground, "has restarted")


COMMAND = Command(
    name="restart",
    summary="Check, drain, and begin afresh with the same PID.",
    details="Check everything; then drain and start again in the same process. Starts what does not run.\n\n"
    "exit status: 0 ready, 1 app or setup() failed, 2 usage or configuration, 4 no rights,\n"
    "5 a port, broker or store was not to be had in time",
    run=run,
)
