"""`foreground`: the supervisor in place of the command, with its PID and its streams."""

from __future__ import annotations

import argparse

from holdfast.cli.command import Call, Command
from holdfast.cli.launching import in_place
from holdfast.cli.preflight import examine


def run(_arguments: argparse.Namespace, call: Call) -> int:
    """Never returns when all is well."""
    in_place(call, examine(call, foreground=True))


COMMAND = Command(
    name="foreground",
    summary="Run here, for a terminal, a container or a service manager.",
    details="Run the daemon here: its log on standard error, Ctrl-C stops it, its PID is this command's.\n\n"
    "exit status: 0 stopped, 1 app or setup() failed, 2 usage or configuration (also when it runs already), 4 no rights,\n"
    "5 a port, broker or store was not to be had in time",
    run=run,
)
