"""Following a daemon on its control socket until it has said how a command ended."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from holdfast.cli import output
from holdfast.cli.verdict import Verdict
from holdfast.control.client import Answer, request
from holdfast.errors import AppError, NotRunningError
from holdfast.linux.holder import holder
from holdfast.model.options import DaemonOptions

_PAUSE = 0.05


def ask(options: DaemonOptions, message: Mapping[str, Any], timeout: float) -> Answer | None:
    """Send a command, show its progress; the last answer, or None when the daemon went without one. Raises as `request`."""
    for answer in request(options.run_dir, options.name, message, timeout):
        if "exit" in answer:
            return answer
        output.progress(str(answer.get("progress", "")))
    return None


def follow(options: DaemonOptions, timeout: float) -> Verdict | None:
    """Wait until the running daemon is ready or has failed; None when it goes before it can tell. AppError when time is over."""
    limit = time.monotonic() + timeout
    while (left := limit - time.monotonic()) > 0:
        try:
            answer = ask(options, {"verb": "wait"}, left)
        except NotRunningError:
            # It has the lock and does not listen yet, or it has just gone.
            if not _lives_on(options):
                return None
        except TimeoutError:
            break
        else:
            return None if answer is None else Verdict.of(answer)
    raise AppError(f"{options.name} is running and did not become ready in {timeout:g} s", remedy="see 'status' and its log")


def lock_path(options: DaemonOptions) -> str:
    """The file whose lock says that a daemon runs."""
    return os.path.join(options.run_dir, f"{options.name}.lock")


def pid_path(options: DaemonOptions) -> str:
    """The PID file, which is only a view."""
    return os.path.join(options.run_dir, f"{options.name}.pid")


def guard_path(options: DaemonOptions) -> str:
    """The file whose lock says that a guard watches the daemon."""
    return os.path.join(options.run_dir, f"{options.name}.guard")


def _lives_on(options: DaemonOptions) -> bool:
    """Whether somebody has the lock, looked at after a moment's pause."""
    with holder(lock_path(options)) as found:
        return found is not None and not found.ended(_PAUSE)
