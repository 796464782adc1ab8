"""`reload`: configuration, settings and code again from the files, under load, with the same PID; all new or all old."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.following import ask
from holdfast.control.client import Answer
from holdfast.errors import AppError, RefusedError
from holdfast.model.options import DaemonOptions

#: Seconds without a word, not of the whole reload: a slow worker is given its own limits by the daemon.
_SILENCE = 600.0


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Ask for it and wait for the verdict."""
    options = call.whereabouts()
    answer = verdict(options, {"verb": "reload", **({"settings": True} if arguments.settings else {})})
    return _conclude(answer, options.name, as_json=arguments.json)


def verdict(options: DaemonOptions, message: Mapping[str, Any]) -> Answer:
    """Ask for a change and wait until it is decided."""
    try:
        answer = ask(options, message, _SILENCE)
    except TimeoutError:
        raise AppError(f"{options.name} has not come to a verdict in {_SILENCE:g} s", remedy="see 'status' and the log") from None
    if answer is None:
        raise AppError(f"{options.name} ended before it could tell the verdict", remedy="see 'status' and the log")
    return answer


def say_json(answer: Answer) -> None:
    """The verdict for programs."""
    output.say_json({key: value for key, value in answer.items() if key != "result"} | answer.get("result", {}))


def _conclude(answer: Answer, name: str, *, as_json: bool) -> int:
    status = int(answer["exit"])
    if as_json:
        say_json(answer)
    elif status:
        error = RefusedError(f"{answer.get('error', 'refused')}; {name} runs on as it was")
        output.complain(AppError(str(error), trace=str(answer.get("trace", ""))))
    else:
        result = answer["result"]
        output.say(f"{name} has reloaded: generation {result['generation']} (pid {result['pid']})")
        for line in result["changes"]:
            output.say(f"  {line}")
    return status


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", action="store_true", help="only the settings file, handed to the workers that are there")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")


COMMAND = Command(
    name="reload",
    summary="Take new configuration, settings and code, under load, with the same PID.",
    details="Read configuration, settings and application code again and replace the workers one by one. The old ones serve until the\n"
    "new ones have proved themselves; when something is wrong everything stays as it was. With --settings only the settings\n"
    "file is read again and handed to Job.reload() in the workers that are there.\n\n"
    "exit status: 0 done, 1 refused or rolled back, 2 usage, 4 no rights, 7 not running",
    run=run,
    configure=_configure,
)
