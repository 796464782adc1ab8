"""`stacks`: what the threads of the running daemon are doing just now."""

from __future__ import annotations

import argparse

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.following import ask
from holdfast.errors import AppError, RefusedError

_PATIENCE = 30.0


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Ask for them and show them."""
    options = call.whereabouts()
    answer = ask(options, {"verb": "stacks", **({"job": arguments.job} if arguments.job else {})}, _PATIENCE)
    if answer is None:
        raise AppError(f"{options.name} ended before it could answer", remedy="see 'status' and the log")
    if answer["exit"]:
        raise RefusedError(str(answer["error"]))
    workers = answer["result"]["workers"]
    if arguments.json:
        output.say_json({"workers": [{key: value for key, value in worker.items() if key != "text"} for worker in workers]})
    else:
        output.say("\n".join(worker["text"] for worker in workers).rstrip("\n") or "there is no worker")
    return 0


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--job", metavar="JOB", help="only workers of this job")
    parser.add_argument("--json", action="store_true", help="for programs")


COMMAND = Command(
    name="stacks",
    summary="Show what every handler thread is doing just now.",
    details="Show the Python stacks of every thread of every worker, which message each handles, and since when. Nothing is interrupted;\n"
    "a worker that is stuck in C code shows its stacks too, one that is stopped only what it has begun.\n\n"
    "exit status: 0 shown, 2 usage, 4 no rights, 7 not running",
    run=run,
    configure=_configure,
)
