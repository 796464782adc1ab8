"""Fault points: where a test makes this process die by SIGKILL, as `holdfast.model.faults` tells."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from holdfast.model.faults import Faults, parse


def fault_points(wanted: str) -> Callable[[str], None]:
    """What to call at each point; does nothing unless `wanted` (the value of HOLDFAST_FAULT) names one."""
    if not wanted:
        return pass_by
    faults, lock = Faults(parse(wanted)), threading.Lock()

    def reached(point: str) -> None:
        with lock:
            due = faults.due(point)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


def pass_by(_point: str) -> None:
    """The usual case."""
