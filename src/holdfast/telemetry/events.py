"""Events: one line each on standard error, which is the write end of the process's log pipe."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
_origin = {"job": "", "worker": "", "level": "info"}


def configure(*, job: str = "", worker: str = "", level: str = "info") -> None:
    """Say whose events these are from now on, and from which level they are written."""
    _origin.update(job=job, worker=worker, level=level)


def log(event: str, text: str = "", level: str = "info", **fields: Any) -> None:
    """Write one event; never raises."""
    if LEVELS.index(level) < LEVELS.index(_origin["level"]):
        return
    origin = {"job": _origin["job"], "worker": _origin["worker"]}
    line = {"t": time.time(), "level": level, "event": event, **origin, "text": text, **fields}
    with suppress(OSError):
        os.write(2, b"\x1e" + json.dumps(line, default=str, separators=(",", ":")).encode() + b"\n")
