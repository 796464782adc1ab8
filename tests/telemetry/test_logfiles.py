"""Places that lines are written to: what waits, what is lost, and where that is said."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from holdfast.telemetry.logfiles import FIRST_PAUSE, LONGEST_PAUSE, ROOM, LogFiles, Outlet


def tell_loss(lines: int, reason: str) -> bytes:
    return f"lost {lines}: {reason}\n".encode()


def drain(fd: int, most: int) -> bytes:
    parts = []
    while most and (part := os.read(fd, most)):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def test_a_loss_stands_where_its_lines_are_missing_while_the_reader_is_still_behind() -> None:
    reading, writing = os.pipe()
    files = LogFiles("-", writing, tell_loss)
    line = b"x" * 1023 + b"\n"
    files.put("", line * (ROOM // 512), 0.0)
    files.flush(0.0)
    files.put("", b"lost\n" * 3, 0.0)
    assert (files.take_lost(), files.take_lost(), files.reason()) == (3, 0, "its reader is too slow")
    got = b""
    while len(got) < ROOM + ROOM // 2 + ROOM // 4:
        files.flush(0.0)
        got += drain(reading, 65536)
    files.put("", b"after\n", 0.0)
    expected = line * (ROOM // 512) + b"lost 3: its reader is too slow\nafter\n"
    while len(got) < len(expected):
        files.flush(0.0)
        got += drain(reading, min(65536, len(expected) - len(got)))
    assert got == expected
    assert (files.reason(), files.blocked()) == ("", [])
    os.close(reading)
    os.close(writing)


class Broken:
    """A place that cannot be written while `broken`."""

    def __init__(self) -> None:
        self.broken = True
        self.tries = 0
        self.written = bytearray()

    def write(self, data: bytearray) -> None:
        self.tries += 1
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.written += data
        data.clear()


def test_a_failure_is_tried_again_after_pauses_that_grow_up_to_a_limit() -> None:
    place = Broken()
    outlet = Outlet(place, tell_loss)  # type: ignore[arg-type]
    outlet.put(b"one\n", 0, 0.0)
    now, pauses = 0.0, []
    for _ in range(12):
        outlet.flush(now)
        outlet.flush(now)
        assert outlet.retry_at is not None
        pauses.append(outlet.retry_at - now)
        now = outlet.retry_at
    assert place.tries == 12
    assert pauses[0] == pytest.approx(FIRST_PAUSE)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)
    assert (outlet.reason, bytes(outlet.pending)) == ("Input/output error", b"one\n")
    place.broken = False
    outlet.flush(now)
    assert (bytes(place.written), outlet.reason, outlet.retry_at) == (b"one\n", "", None)


def test_files_of_other_days_are_closed_once_nobody_writes_them(tmp_path: os.PathLike[str]) -> None:
    files = LogFiles(os.path.join(tmp_path, "{date}.log"), 2, tell_loss)
    for now, date in ((0.0, "2026-11-23"), (0.0, "2026-11-24"), (59.0, "2026-11-24")):
        files.put(date, b"line\n", now)
        files.flush(now)
    assert opened(tmp_path) == ["2026-11-23.log", "2026-11-24.log"]
    files.flush(61.0)
    assert opened(tmp_path) == ["2026-11-24.log"]
    files.finish(61.0)
    assert opened(tmp_path) == []


def opened(folder: os.PathLike[str]) -> list[str]:
    """Files of this folder that this process has open. Other tests' threads may open and close others meanwhile."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(os.path.basename(path) for path in found if os.path.dirname(path) == str(folder))
