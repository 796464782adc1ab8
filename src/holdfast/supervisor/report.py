"""The verdict of a start, told to the command that waits for it, and to the clients that ask to wait."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any


class Report:
    """Lines of JSON on the descriptor given with `--report`; in the foreground, failures on standard error."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def progress(self, text: str) -> None:
        self._write({"progress": text})

    def busy(self, pid: int) -> None:
        """Another supervisor has the lock."""
        if self._fd is None:
            print(f"holdfast: it is already running (pid {pid}); stop it first", file=sys.stderr)
        self._write({"busy": pid})

    def verdict(self, answer: dict[str, Any]) -> None:
        """The last line: {"exit": 0, "pid": n} or {"exit": n, "error": "…", "trace": "…"}."""
        if self._fd is None and answer["exit"]:
            trace = answer.get("trace", "").rstrip()
            print(f"{trace}\n" * bool(trace) + f"holdfast: {answer['error']}", file=sys.stderr)
        self._write(answer)
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _write(self, line: dict[str, Any]) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):  # the command was interrupted; nobody waits any more
                os.write(self._fd, json.dumps(line).encode() + b"\n")
