"""Events: one line each on standard error, which is the write end of the process's log pipe.

A line is `\\x1e` + a JSON object + `\\n`, written at once, so that lines of several threads never mix. Logging never raises
and never blocks: while the logger reads nothing, lines are dropped and counted, and the next line that goes out says how many.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from typing import Any

LEVELS = ("debug", "info", "warning", "error")
_PIPE_BUF = select.PIPE_BUF  # a pipe that polls writable takes this much without blocking
_STDERR = 2


class _Origin:
    job = ""
    worker = ""
    least = 1
    dropped = 0


_lock = threading.Lock()


def configure(*, job: str = "", worker: str = "", level: str = "info") -> None:
    """Say whose events these are from now on, and from which level they are written."""
    _Origin.job, _Origin.worker, _Origin.least = job, worker, LEVELS.index(level)


def log(event: str, text: str = "", level: str = "info", **fields: Any) -> None:
    """Write one event; never raises, never blocks."""
    if LEVELS.index(level) < _Origin.least:
        return
    line = {"t": time.time(), "level": level, "event": event, "job": _Origin.job, "worker": _Origin.worker, "text": text, **fields}
    with _lock:
        if _Origin.dropped:
            line["dropped"] = _Origin.dropped
        if _write(_encoded(line)):
            _Origin.dropped = 0
        else:
            _Origin.dropped += 1


def _encoded(line: dict[str, Any]) -> bytes:
    """The line, its text shortened in the middle where it would not fit into one atomic write."""
    data = json.dumps(line, default=str, separators=(",", ":")).encode()
    while len(data) + 2 > _PIPE_BUF and len(line["text"]) > 16:
        text = line["text"]
        keep = max(8, len(text) * (_PIPE_BUF - 64) // (len(data) + 2) // 2 - 8)
        line["text"] = f"{text[:keep]}\n[…]\n{text[-keep:]}" if 2 * keep + 5 < len(text) else text[:16]
        data = json.dumps(line, default=str, separators=(",", ":")).encode()
    return b"\x1e" + data + b"\n"


def _write(data: bytes) -> bool:
    try:
        poll = select.poll()
        poll.register(_STDERR, select.POLLOUT)
        ready = poll.poll(0)
        return bool(ready) and bool(ready[0][1] & select.POLLOUT) and os.write(_STDERR, data) == len(data)
    except OSError:
        return False
