"""`upgrade`: the daemon becomes the version of Holdfast that is installed now, under load, with the same PID; then it reloads."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from holdfast.cli.change import change
from holdfast.cli.command import Call, Command


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Ask for it and wait for the verdict, through the exec."""
    options = call.whereabouts()

    def done(result: Mapping[str, Any]) -> str:
        where = f"pid {result['pid']}, generation {result['generation']}"
        change = f" instead of {result['before']}" if result["before"] != result["version"] else ", as before, started afresh"
        return f"{options.name} runs holdfast {result['version']}{change} ({where})"

    return change(options, {"verb": "upgrade"}, done, as_json=arguments.json)


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
