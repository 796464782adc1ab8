"""Stacks of a worker's threads: from faulthandler's text and the board to rows that say who does what, since when, and where.

The text is written by a C signal handler, so it comes also from a worker whose handler holds the interpreter's lock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.model.board import Begun, Reading
from holdfast.model.delivery_id import delivery_id

_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+)(?: \[.*\])? \(most recent call first\):", re.MULTILINE)
_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$', re.MULTILINE)
# The first thread is the last in the text, and this is where it began; or there were more threads than faulthandler shows.
_END = re.compile(r'(?:process\.py", line \d+ in <module>|^\.\.\.)\n\Z', re.MULTILINE)
_MOST_MESSAGES = 10


@dataclass(frozen=True, slots=True)
class Frame:
    """One call; the line is 0 where it is not known."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class Row:
    """One thread. `doing` is what it has begun, in words; `since_s` how many seconds ago, None where nothing is begun."""

    thread: str
    doing: str
    messages: tuple[str, ...]
    since_s: float | None
    frames: tuple[Frame, ...]  # the innermost first; none where the worker has not answered


def is_whole(text: str) -> bool:
    """Whether the worker has written all of it."""
    return _END.search(text) is not None


def parse(text: str) -> dict[int, tuple[Frame, ...]]:
    """The frames of each thread by its ident, in the order of the text."""
    heads = list(_THREAD.finditer(text))
    ends = [*(head.start() for head in heads), len(text)][1:]
    return {int(head[1], 16): tuple(_frames(text[head.end() : end])) for head, end in zip(heads, ends, strict=True)}


def rows(text: str, reading: Reading, *, job: str, epoch: int, now_ns: int) -> list[Row]:
    """Handler threads in their order, then the worker's I/O loop, then threads of the application's own.

    Without text (a worker that is stopped answers nothing) there still are the handler threads, with what they handle.
    """
    stacks = parse(text)
    begun = {one.thread: one for one in reading.begun}
    result = []
    for index, ident in enumerate(reading.idents):
        result.append(_row(f"{job}-{index}", begun.get(index), epoch, now_ns, stacks.pop(ident, ())))
    *others, loop = stacks.values() if stacks else [None]
    if loop is not None:
        result.append(Row("I/O loop", "", (), None, loop))
    result += [Row("another thread", "", (), None, frames) for frames in others if frames is not None]
    return result


def render(worker: str, pid: int, found: Iterable[Row], silence: str = "") -> str:
    """As text for people; `silence` says why the worker has not answered."""
    lines = [f"{worker} (PID {pid})" + (f": no stacks: {silence}" if silence else "")]
    for row in found:
        since = "" if row.since_s is None else f" for {row.since_s:.1f} s"
        lines.append(f"  {row.thread}" + (f": {row.doing}{since}" if row.doing else ""))
        lines += [f"    {frame.file}:{frame.line or '?'} in {frame.function}" for frame in row.frames]
    return "\n".join(lines) + "\n"


def _frames(text: str) -> Iterable[Frame]:
    for file, line, function in _FRAME.findall(text):
        yield Frame(file, int(line) if line.isdigit() else 0, function)


def _row(thread: str, begun: Begun | None, epoch: int, now_ns: int, frames: tuple[Frame, ...]) -> Row:
    if begun is None:
        return Row(thread, "idle", (), None, frames)
    messages = tuple(delivery_id(epoch, seq) for seq in begun.seqs if seq)
    return Row(thread, _doing(begun.seqs, messages), messages, max(0, now_ns - begun.since_ns) / 1e9, frames)


def _doing(seqs: Sequence[int], messages: Sequence[str]) -> str:
    if not seqs:
        return "taking new settings"
    if not messages:
        return "handling a dead letter"
    more = f" and {len(messages) - _MOST_MESSAGES} more" if len(messages) > _MOST_MESSAGES else ""
    return f"handling {', '.join(messages[:_MOST_MESSAGES])}{more}"
