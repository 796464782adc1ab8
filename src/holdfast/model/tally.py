"""The ingress's board: one row of counters a job, in memory that the supervisor reads at any time without asking."""

from __future__ import annotations

import struct

ROWS = 256
COLUMNS = (
    "held",  # messages taken in and not yet settled
    "held_bytes",
    "waiting",  # of these, not with any worker
    "received",
    "redelivered",
    "suspects",  # messages that wait for quarantine
    "answered",
    "refused",  # not taken in: malformed or too large
    "gone",  # answers whose client had left
    "dropped",  # answers dropped since their client read too slowly
    "parked",  # answers that wait for a slow client
    "clients",
)
_ROW = struct.Struct(f"<{len(COLUMNS)}Q")
SIZE = ROWS * _ROW.size


def write(view: memoryview, row: int, values: tuple[int, ...]) -> None:
    """Write one job's counters, in the order of COLUMNS."""
    _ROW.pack_into(view, row * _ROW.size, *values)


def read(view: memoryview | bytes, row: int) -> dict[str, int]:
    """Read one job's counters."""
    return dict(zip(COLUMNS, _ROW.unpack_from(view, row * _ROW.size), strict=True))
