"""`start`: returns 0 only when every job is ready, whoever made it so."""

from __future__ import annotations

import argparse
import signal
import time

from holdfast.cli import output
from holdfast.cli.command import Call, Command
from holdfast.cli.following import follow, guard_path, lock_path
from holdfast.cli.guard import leaves_it_to_another
from holdfast.cli.launching import GRACE, detached
from holdfast.cli.preflight import Ground, examine
from holdfast.cli.verdict import Verdict
from holdfast.errors import AppError
from holdfast.linux.holder import holder


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Start in the background, or find that it runs."""
    ground = examine(call)
    return start(call, ground, guarded=arguments.guard and not leaves_it_to_another())


def start(call: Call, ground: Ground, *, guarded: bool = False) -> int:
    """Start; with many starts at the same moment one starts and the others wait for it."""
    if _runs(ground):
        verdict = follow(ground.options, ground.options.start_timeout + GRACE)
        if verdict is not None:
            return conclude(verdict, ground, "is already running")
    guarded = _relieves_a_guard(ground) or guarded
    limit = time.monotonic() + ground.options.start_timeout + GRACE
    while True:
        verdict = detached(call, ground, guarded=guarded)
        if verdict.busy is None:
            return conclude(verdict, ground, "is ready")
        other = follow(ground.options, max(1.0, limit - time.monotonic()))
        if other is not None:
            return conclude(other, ground, "is ready: another start was faster")
        if time.monotonic() > limit:
            raise AppError(f"another supervisor (PID {verdict.busy}) has the lock and is not ready", remedy="try 'stop', then 'start'")


def conclude(verdict: Verdict, ground: Ground, how: str) -> int:
    """Say how it ended."""
    if verdict.exit == 0:
        output.say(f"{ground.options.name} {how} (pid {verdict.pid})")
    else:
        output.complain(AppError(verdict.error or f"{ground.options.name} did not become ready", trace=verdict.trace))
    return verdict.exit


def _runs(ground: Ground) -> bool:
    """Whether this very app has the lock. When another app has it, the supervisor will say so better."""
    with holder(lock_path(ground.options)) as found:
        return found is not None and found.app == ground.options.app


def _relieves_a_guard(ground: Ground) -> bool:
    """End a guard that waits for its next try, since this start is that try; whether there was one."""
    with holder(guard_path(ground.options)) as guard:
        if guard is None or _runs(ground):
            return False
        guard.kill(signal.SIGTERM)
        if not guard.ended(ground.options.stop_timeout + GRACE):
            raise AppError(f"the guard (PID {guard.pid}) does not end", remedy="try 'stop', then 'start'")
        return True


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--guard", action="store_true", help="with a parent that starts the daemon again when it ends unasked")


COMMAND = Command(
    name="start",
    summary="Start in the background; returns when every job is ready.",
    details="Start the daemon in the background and return when every job is ready, or say why it cannot be.\n\n"
    "exit status: 0 ready (also when it was running), 1 app or setup() failed, 2 usage or configuration, 4 no rights,\n"
    "5 a port, broker or store was not to be had in time",
    run=run,
    configure=_configure,
)
