"""`upgrade`: the daemon becomes the version of Holdfast that is installed now, under load, with the same PID; then it reloads."""

from __future__ import annotations

import argparse

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.reload import say_json, verdict
from holdfast.errors import AppError, RefusedError


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Ask for it and wait for the verdict, through the exec."""
    options = call.whereabouts()
    answer = verdict(options, {"verb": "upgrade"})
    status = int(answer["exit"])
    if arguments.json:
        say_json(answer)
    elif status:
        error = RefusedError(str(answer.get("error", "refused")))
        output.complain(AppError(str(error), trace=str(answer.get("trace", ""))))
    else:
        result = answer["result"]
        where = f"pid {result['pid']}, generation {result['generation']}"
        output.say(f"{options.name} runs holdfast {result['version']} instead of {result['before']} ({where})")
        for line in result["changes"]:
            output.say(f"  {line}")
    return status


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


COMMAND = Command(
    name="upgrade",
    summary="Take the version of Holdfast that is installed now, under load, with the same PID.",
    details="Replace the program of the daemon itself by the one that is installed where it was started from, and then reload. It is\n"
    "checked first: a new version that cannot take over is refused, and nothing changes. No connection is closed, no message is lost.\n\n"
    "exit status: 0 done, 1 refused, or upgraded but the reload was refused (it says which), 2 usage, 4 no rights, 7 not running",
    run=run,
    configure=_configure,
)
