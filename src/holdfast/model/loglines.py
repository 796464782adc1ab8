"""Log lines as values: cutting a process's output into lines, telling events from output, writing one line an event.

The text form has six columns and then `key=value` pairs, all separated by tabs:

    2026-11-24T07:14:20.123+01:00  INFO  worker.ready  Fee  Fee/0.1  all set  threads=2

Line ends, tabs, backslashes and control characters inside of a column are escaped as in Python (`\\n`), so that one event is one
line, whatever it says, and nothing that is logged can steer a terminal. `printf '%b\\n'` shows a traceback as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Any, NamedTuple

LEVELS = ("debug", "info", "warning", "error")
LONGEST = 65536
MARK = 0x1E
_COLUMNS = ("t", "level", "event", "job", "worker", "text")
_DAY = 86400.0
_ESCAPES = str.maketrans(
    {chr(code): f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
    | {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


class Piece(NamedTuple):
    """A line without its end; or, where `part` is not 0, the part-th piece of a line that was too long."""

    data: bytes
    part: int = 0


class Cutter:
    """Cuts one process's bytes into lines, however they arrive, and lines longer than `longest` into pieces."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._rest = b""
        self._part = 0

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Add bytes; yield what is whole."""
        *lines, rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield from self._last(line)
        self._rest = yield from self._pieces(rest)

    @property
    def within_a_line(self) -> bool:
        """Whether a line was begun and has not come to its end."""
        return bool(self._rest or self._part)

    def end(self) -> Iterator[Piece]:
        """The process is gone: yield what it began and did not finish."""
        rest, self._rest = self._rest, b""
        if rest:
            yield from self._last(rest)

    def _last(self, line: bytes) -> Iterator[Piece]:
        line = yield from self._pieces(line)
        yield Piece(line, self._part + 1 if self._part else 0)
        self._part = 0

    def _pieces(self, line: bytes) -> Generator[Piece, None, bytes]:  # returns what is left
        while len(line) > self._longest:
            at = _boundary(line, self._longest)
            self._part += 1
            yield Piece(line[:at], self._part)
            line = line[at:]
        return line


def _boundary(line: bytes, at: int) -> int:
    """The nearest place at or before `at` that is not inside of a UTF-8 character."""
    for place in range(at, max(at - 4, 0), -1):
        if line[place] & 0xC0 != 0x80:
            return place
    return at


@dataclass(frozen=True, slots=True)
class Line:
    """One event, or one line of output. `at` is in seconds since the epoch."""

    at: float
    level: str
    event: str
    job: str = ""
    worker: str = ""
    text: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def weighs(self, least: str) -> bool:
        """Whether it is to be written. Output always is: nobody has said how grave it is."""
        return self.event == "output" or _rank(self.level) >= _rank(least)


def parse(piece: Piece, job: str, worker: str, now: float) -> Line:
    """Read a line of the process that is `worker` of `job`; whatever is not a well-formed event is output, read at `now`."""
    if piece.data[:1] == b"\x1e" and not piece.part:
        line = _event(piece.data[1:], job, worker, now)
        if line is not None:
            return line
    text = piece.data.decode("utf-8", "backslashreplace")
    return Line(now, "info", "output", job, worker, text, {"part": piece.part} if piece.part else {})


def _event(data: bytes, job: str, worker: str, now: float) -> Line | None:
    try:
        said = json.loads(data, parse_float=_finite, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("event"), str):
        return None
    rest = {name: value for name, value in said.items() if name not in _COLUMNS}
    column = {"level": "info", "job": job, "worker": worker, "text": ""}
    column |= {name: str(said[name]) for name in column if said.get(name)}
    return Line(_moment(said.get("t"), now), event=said["event"], fields=rest, **column)


def _moment(at: Any, now: float) -> float:
    """The time a line claims, where it can be so: each date is a file, and more than a day off is no delay."""
    return float(at) if isinstance(at, (int, float)) and now - _DAY <= at <= now + _DAY else now


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def stamp(at: float, zone: tzinfo | None = None) -> datetime:
    """The local time of a line; `zone` None is the machine's."""
    return datetime.fromtimestamp(at, zone).astimezone(zone)


def date(moment: datetime) -> str:
    """What stands for {date} in the path of the file that a line of this moment belongs to."""
    return moment.date().isoformat()


def as_text(line: Line, moment: datetime) -> bytes:
    """One line of tab-separated columns."""
    columns = [moment.isoformat(timespec="milliseconds"), line.level.upper(), line.event, line.job or "-", line.worker or "-", line.text]
    pairs = [f"{name}={value if isinstance(value, str) else _json(value)}" for name, value in line.fields.items()]
    return "\t".join(column.translate(_ESCAPES) for column in columns + pairs).encode("utf-8", "backslashreplace") + b"\n"


def as_json(line: Line, moment: datetime) -> bytes:
    """One line that is a JSON object; fields of the event stand beside the columns."""
    columns = {"time": moment.isoformat(timespec="milliseconds"), "level": line.level, "event": line.event, "job": line.job}
    return _json({**line.fields, **columns, "worker": line.worker, "text": line.text}).encode() + b"\n"


_FORMS = {"text": as_text, "json": as_json}


def render(line: Line, moment: datetime, form: str) -> bytes:
    """The line in the form `text` or `json`, its end included."""
    try:
        return _FORMS[form](line, moment)
    except RecursionError:
        return _FORMS[form](replace(line, fields={"fields": "nested too deeply"}), moment)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _rank(level: str) -> int:
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("info")
