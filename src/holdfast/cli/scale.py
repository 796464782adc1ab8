"""`scale`: so many workers of a job from now on, until the configuration says something else."""

from __future__ import annotations

import argparse
import dataclasses

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.following import ask
from holdfast.errors import AppError, RefusedError, UsageError

_PATIENCE = 30.0


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Ask for it; workers come and go after the answer, and 'status' shows them."""
    target, job, processes = _words([*([arguments.target] if arguments.target else []), *arguments.words])
    options = dataclasses.replace(call, target=target).whereabouts()
    answer = ask(options, {"verb": "scale", "job": job, "processes": processes}, _PATIENCE)
    if answer is None:
        raise AppError(f"{options.name} ended before it could answer", remedy="see 'status' and the log")
    if answer["exit"]:
        kind = UsageError if answer["exit"] == 2 else RefusedError
        raise kind(str(answer["error"]))
    result = answer["result"]
    output.say(f"{result['job']}: {result['before']} -> {result['processes']} workers")
    return 0


def _words(words: list[str]) -> tuple[str, str, int]:
    """Target (may be left out), job, number."""
    if len(words) not in (2, 3):
        raise UsageError("scale takes a job and a number of workers", remedy="write: holdfast scale [TARGET] JOB N")
    target, job, number = ["", *words][-3:]
    if not number.isdecimal():
        raise UsageError(f"'{number}' is not a number of workers", remedy="write: holdfast scale [TARGET] JOB N")
    return target, job, int(number)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "holdfast scale [TARGET] JOB N [options]"
    parser.add_argument("words", nargs="*", metavar="JOB N", help="the job, and how many workers it is to have")


COMMAND = Command(
    name="scale",
    summary="Run so many workers of a job.",
    details="Start or drain workers of a job until there are so many. No message is lost. It stays until 'processes' of the job is\n"
    "changed in the configuration and reloaded, or until the daemon is stopped.\n\n"
    "exit status: 0 done, 1 refused, 2 usage, 4 no rights, 7 not running",
    run=run,
    configure=_configure,
)
