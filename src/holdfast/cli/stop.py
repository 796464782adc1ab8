"""`stop`: drain, and see that nothing is left; a supervisor that does not end is ended."""

from __future__ import annotations

import argparse
import os
import signal
import time

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.following import ask, guard_path, lock_path, pid_path
from holdfast.errors import HoldfastError, InternalError, NotRunningError, UsageError
from holdfast.linux.holder import Holder, holder
from holdfast.linux.privileges import Identity
from holdfast.model import units
from holdfast.model.options import DaemonOptions
from holdfast.supervisor.inputs import service_identity
from holdfast.supervisor.instance import Instance

_GRACE = 10.0  # its last steps have limits of their own, about 8 s together (holdfast.supervisor.stopping)
_AT_ONCE = 5.0  # `--now` drains nothing
_AFTER_KILL = 10.0
_GUARD_LEAVES = 2.0


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Stop; 0 also when there was nothing to stop."""
    options = call.whereabouts()
    patience = options.stop_timeout if arguments.timeout is None else _seconds(arguments.timeout)
    message = {"verb": "stop", **({"now": True} if arguments.now else {}), **({"timeout": patience} if arguments.timeout else {})}
    with holder(guard_path(options)) as guard, holder(lock_path(options)) as found:
        return _stop(options, message, found, guard, (_AT_ONCE if arguments.now else patience) + _GRACE)


def _stop(options: DaemonOptions, message: dict[str, object], found: Holder | None, guard: Holder | None, patience: float) -> int:
    limit = time.monotonic() + patience
    try:
        answer = ask(options, message, patience)
        if answer is not None and answer["exit"]:
            output.complain(HoldfastError(str(answer.get("error", "the daemon refused to stop"))))
            return int(answer["exit"])
    except NotRunningError:
        first = guard or found
        if first is None:
            output.say(f"{options.name} is not running")
            return 0
        # It is on its way up or down: TERM is the same command.
        first.kill(signal.SIGTERM)
    except (TimeoutError, InternalError, OSError):
        output.progress("it does not answer")
    if found is not None and not found.ended(limit - time.monotonic()):
        _end(options, found, guard)
    if guard is not None:
        _see_off(options, guard, limit - time.monotonic())
    output.say(f"{options.name} has stopped")
    _look_for_left(options)
    return 0


def _look_for_left(options: DaemonOptions) -> None:
    """A run directory that cannot be written any more keeps the PID file."""
    path = pid_path(options)
    with holder(lock_path(options)) as another:
        if another is None and os.path.isfile(path):
            output.note(f"{path} is left: it could not be removed")


def _see_off(options: DaemonOptions, guard: Holder, patience: float) -> None:
    """A guard leaves after its supervisor. When that died meanwhile, the guard does not know that it was to stop."""
    if guard.ended(_GUARD_LEAVES):
        return
    guard.kill(signal.SIGTERM)
    if not guard.ended(max(_GRACE, patience)):
        output.note(f"the guard (PID {guard.pid}) does not end; killing it")
        guard.kill(signal.SIGKILL)
        guard.ended(_AFTER_KILL)
    _clean_up(options)


def _end(options: DaemonOptions, found: Holder, guard: Holder | None) -> None:
    """End a wedged supervisor, and what it has left behind; its guard must know first."""
    if guard is not None:
        guard.kill(signal.SIGTERM)
    output.note(f"the supervisor (PID {found.pid}) does not end; killing it")
    found.kill(signal.SIGKILL)
    if not found.ended(_AFTER_KILL):
        raise HoldfastError(f"PID {found.pid} cannot be killed: it waits for a disk or a driver", remedy="look at the machine's log")
    _clean_up(options)


def _clean_up(options: DaemonOptions) -> None:
    instance = Instance(options.run_dir, options.state_dir, options.name, _identity(options))
    left = instance.end_leftovers()
    if left:
        output.note(f"killed what it has left: PID {', '.join(map(str, left))}")
    instance.remove()


def _identity(options: DaemonOptions) -> Identity | None:
    try:
        return service_identity(options)[0]
    except HoldfastError:  # the configuration is broken; what is to be ended is there all the same
        return None


def _seconds(text: str) -> float:
    try:
        return units.duration(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is not {error}", where="--timeout") from None


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="finish nothing: give back what was begun")
    parser.add_argument("--timeout", metavar="DURATION", help="how long begun work may take, instead of stop_timeout")


COMMAND = Command(
    name="stop",
    summary="Finish what was begun, then stop.",
    details="Stop the daemon: what was begun is finished, what was not is given back, nothing of it is left running.\n"
    "A supervisor that does not end in stop_timeout is killed, and its children with it.\n\n"
    "exit status: 0 stopped, or was not running; 2 usage, 4 no rights",
    run=run,
    configure=_configure,
)
