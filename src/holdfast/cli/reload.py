"""`reload`: configuration, settings and code again from the files, under load, with the same PID; all new or all old."""

from __future__ import annotations

import argparse

from holdfast.cli.change import change
from holdfast.cli.command import Call, Command


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Ask for it and wait for the verdict."""
    options = call.whereabouts()
    message = {"verb": "reload", **({"settings": True} if arguments.settings else {})}
    return change(
        options,
        message,
        lambda result: f"{options.name} has reloaded: generation {result['generation']} (pid {result['pid']})",
        refused=f"; {options.name} runs on as it was",
        as_json=arguments.json,
    )


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
