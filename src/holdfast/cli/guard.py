"""`guard`: a parent here in the foreground that starts the daemon again when it has ended and nobody asked for that."""

from __future__ import annotations

import argparse
import os

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.launching import in_place
from holdfast.cli.preflight import examine
from holdfast.linux import process
from holdfast.model.recovery import has_other_guard


def run(_arguments: argparse.Namespace, call: Call) -> int:
    """Never returns when all is well."""
    ground = examine(call, foreground=True)
    in_place(call, ground, kind="supervisor" if leaves_it_to_another() else "guard")


def leaves_it_to_another() -> bool:
    """Whether a service manager guards this process already, which is then said."""
    if not has_other_guard(os.environ, process.name(os.getppid())):
        return False
    output.note("the service manager that started this guards it already: no guard of our own (its Restart= decides)")
    return True


COMMAND = Command(
    name="guard",
    summary="Run here, and start it again when it ends unasked.",
    details="Run the daemon as the child of this process, which starts it again when it ends and nobody asked for that: at once,\n"
    "then at growing intervals up to a minute. Each recovery is in the daemon's log. 'stop' ends both; signals are passed on.\n"
    "Where a service manager watches already, the daemon runs without a guard.\n\n"
    "exit status: 0 stopped, 1 app or setup() failed at the first start, 2 usage or configuration (also when it runs already),\n"
    "4 no rights, 5 a port, broker or store was not to be had in time",
    run=run,
)
