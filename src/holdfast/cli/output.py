"""What people and programs read: facts on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from holdfast.errors import AppError, HoldfastError

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


def say(text: str) -> None:
    """A fact, for standard output."""
    print(clean(text), flush=True)


def say_json(value: Any) -> None:
    """Facts for a program."""
    print(json.dumps(value, indent=2), flush=True)


def note(text: str) -> None:
    """A remark on standard error."""
    print(f"holdfast: {clean(text)}", file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """What happens just now; only for somebody who watches."""
    if sys.stderr.isatty():
        print(paint(clean(text), "dim", sys.stderr), file=sys.stderr, flush=True)


def complain(error: HoldfastError) -> None:
    """An error as its reader needs it: the traceback, if it brings one, then the reason."""
    trace = error.trace if isinstance(error, AppError) else ""
    if trace:
        print(clean(trace).rstrip("\n"), file=sys.stderr)
    print(f"{paint('holdfast:', 'red', sys.stderr)} {clean(str(error))}", file=sys.stderr, flush=True)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """In colour on a terminal, unless NO_COLOR is set."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def clean(text: str) -> str:
    """Without what could move a terminal's cursor: parts of it come from users' code and messages."""
    return _UNPRINTABLE.sub("�", text)


def columns(rows: Sequence[Sequence[str]], indent: str = "") -> list[str]:
    """Rows with their columns below each other; numbers to the right."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [(indent + "  ".join(_placed(cell, width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in rows]


def _placed(cell: str, width: int) -> str:
    return cell.rjust(width) if re.fullmatch(r"[0-9][0-9.,]*( ?[A-Za-z%/]{1,5})?|-", cell) else cell.ljust(width)
