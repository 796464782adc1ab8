"""The board: a worker's counters, heartbeat and what each of its threads is handling, in memory that outlives it.

The supervisor makes one memfd per worker, sealed against shrinking, and maps it; the worker maps the same pages and
writes. After a SIGKILL the supervisor still reads what the worker was doing. Each thread writes only its own part, so no
lock is needed; a reader sees each number whole (aligned 8 byte writes), but not all of them at one instant.

Layout (little endian, all fields u64):

    header   magic, version, threads, batch, heartbeat_ns, loop_ns, pid, state
    thread   since_ns, deadline_ns, count, ident, seq[batch], counters[COUNTERS], rate[RATE_SLOTS][2], latency[BUCKETS]   (one a thread)

`since_ns` is 0 while the thread is idle. `seq` are the delivery sequences of the messages that are begun *now*: the one in
`handle`, or the list in `handle_batch`. `ident` is the thread as faulthandler names it. Times are CLOCK_MONOTONIC.

A board of version 1 has no `ident`; workers of the version before may still write such.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

MAGIC = 0x484F4C44
VERSION = 2
COUNTERS = ("handled", "failed", "retried", "dead", "duplicates", "batches", "replays", "rejected")
_TRIES = ("handled", "failed", "rejected")
BUCKETS = 64
RATE_SLOTS = 8
RATE_SECONDS = 10
_HEADER = struct.Struct("<8Q")
_U64 = struct.Struct("<Q")
_U64X2 = struct.Struct("<QQ")
_U64X3 = struct.Struct("<QQQ")


def _before_seqs(version: int) -> int:
    """Fields of a thread's part before `seq`."""
    return 3 if version < 2 else 4


def _thread_size(batch: int, version: int = VERSION) -> int:
    return 8 * (_before_seqs(version) + batch + len(COUNTERS) + 2 * RATE_SLOTS + BUCKETS)


def size(threads: int, batch: int) -> int:
    """Bytes of a board."""
    return _HEADER.size + threads * _thread_size(batch)


def bucket(latency_ns: int) -> int:
    """The histogram bucket of a latency: two a power of two, from 16 µs to hours."""
    units = latency_ns >> 14
    if units <= 0:
        return 0
    power = units.bit_length() - 1
    half = (units >> (power - 1)) & 1 if power else 0
    return min(BUCKETS - 1, 1 + 2 * power + half)


def bucket_ms(index: int) -> float:
    """The upper bound of a bucket, in milliseconds. One unit cannot be halved: power 0 has one bucket, not two."""
    if index == 0:
        return (1 << 14) / 1e6
    power, half = divmod(index - 1, 2)
    return ((1 << power) * (2 if half or power == 0 else 1.5)) * (1 << 14) / 1e6


class BoardWriter:
    """The worker's side; `view` is a writable buffer of `size(threads, batch)` bytes."""

    def __init__(self, view: memoryview, threads: int, batch: int, pid: int) -> None:
        self._view = view
        self._batch = batch
        _HEADER.pack_into(view, 0, MAGIC, VERSION, threads, batch, 0, 0, pid, 0)
        self.threads = [ThreadBoard(view, _HEADER.size + i * _thread_size(batch), batch) for i in range(threads)]

    def beat(self, now_ns: int) -> None:
        """Show that the I/O loop turns."""
        _U64.pack_into(self._view, 32, now_ns)


class ThreadBoard:
    """One thread's part."""

    def __init__(self, view: memoryview, offset: int, batch: int) -> None:
        self._view = view
        self._offset = offset
        self._batch = batch
        self._seqs = offset + 8 * _before_seqs(VERSION)
        self._counters = self._seqs + 8 * batch
        self._rate = self._counters + 8 * len(COUNTERS)
        self._latency = self._rate + 16 * RATE_SLOTS

    def belongs_to(self, ident: int) -> None:
        """Which thread writes here."""
        _U64.pack_into(self._view, self._offset + 24, ident)

    def begin(self, seq: int, now_ns: int, deadline_ns: int) -> None:
        """This message is being handled from now on."""
        _U64.pack_into(self._view, self._seqs, seq)
        _U64X3.pack_into(self._view, self._offset, now_ns, deadline_ns, 1)

    def begin_many(self, seqs: Sequence[int], now_ns: int, deadline_ns: int) -> None:
        """These messages are being handled together from now on; at most `batch`."""
        struct.pack_into(f"<{len(seqs)}Q", self._view, self._seqs, *seqs)
        _U64X3.pack_into(self._view, self._offset, now_ns, deadline_ns, len(seqs))

    def extend(self, deadline_ns: int) -> None:
        """The handler asked for more time."""
        _U64.pack_into(self._view, self._offset + 8, deadline_ns)

    def end(self) -> None:
        """Nothing is being handled."""
        _U64X3.pack_into(self._view, self._offset, 0, 0, 0)

    def read(self) -> tuple[int, int, int]:
        """since_ns, deadline_ns, count: for the worker's own I/O loop."""
        return _U64X3.unpack_from(self._view, self._offset)

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter."""
        at = self._counters + 8 * COUNTERS.index(name)
        _U64.pack_into(self._view, at, _U64.unpack_from(self._view, at)[0] + by)

    def tried(self) -> int:
        """How often a message (or a round of run()) was tried to its end, well or not: for the worker's own I/O loop."""
        return sum(_U64.unpack_from(self._view, self._counters + 8 * COUNTERS.index(name))[0] for name in _TRIES)

    def settled(self, messages: int, latencies_ns: Sequence[int], now_ns: int) -> None:
        """Count messages that were settled just now into the rate and the latency histogram."""
        period = now_ns // (RATE_SECONDS * 10**9)
        at = self._rate + 16 * (period % RATE_SLOTS)
        stamp, done = _U64X2.unpack_from(self._view, at)
        _U64X2.pack_into(self._view, at, period, messages + (done if stamp == period else 0))
        for index, count in Counter(map(bucket, latencies_ns)).items():
            place = self._latency + 8 * index
            _U64.pack_into(self._view, place, _U64.unpack_from(self._view, place)[0] + count)


@dataclass(slots=True)
class Begun:
    """What one thread was handling."""

    thread: int
    since_ns: int
    deadline_ns: int
    seqs: tuple[int, ...]


@dataclass(slots=True)
class Reading:
    """A board as read at one time."""

    heartbeat_ns: int = 0
    pid: int = 0
    begun: list[Begun] = field(default_factory=list)
    idents: list[int] = field(default_factory=list)  # of each thread, 0 where it is not known
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    last_minute: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * BUCKETS)


def read(view: memoryview | bytes, now_ns: int) -> Reading:
    """Read a board; one that its worker has not written yet reads as empty."""
    magic, version, threads, batch, heartbeat_ns, _loop, pid, _state = _HEADER.unpack_from(view, 0)
    result = Reading()
    if magic != MAGIC:
        return result
    result.heartbeat_ns, result.pid = heartbeat_ns, pid
    period = now_ns // (RATE_SECONDS * 10**9)
    for index in range(threads):
        at = _HEADER.size + index * _thread_size(batch, version)
        since, deadline, count = _U64X3.unpack_from(view, at)
        result.idents.append(_U64.unpack_from(view, at + 24)[0] if version >= 2 else 0)
        at += 8 * _before_seqs(version)
        seqs = struct.unpack_from(f"<{min(count, batch)}Q", view, at)
        if since:
            result.begun.append(Begun(index, since, deadline, seqs))
        at += 8 * batch
        for name, value in zip(COUNTERS, struct.unpack_from(f"<{len(COUNTERS)}Q", view, at), strict=True):
            result.counters[name] += value
        at += 8 * len(COUNTERS)
        rates = struct.unpack_from(f"<{2 * RATE_SLOTS}Q", view, at)
        result.last_minute += sum(n for stamp, n in zip(rates[::2], rates[1::2], strict=True) if period - 6 < stamp <= period)
        at += 16 * RATE_SLOTS
        for place, n in enumerate(struct.unpack_from(f"<{BUCKETS}Q", view, at)):
            result.latency[place] += n
    return result


def percentile_ms(latency: Sequence[int], share: float) -> float:
    """The latency, in milliseconds, below which this share of the messages stayed; 0 when there were none."""
    total = sum(latency)
    if not total:
        return 0.0
    reached = 0
    for index, n in enumerate(latency):
        reached += n
        if reached >= total * share:
            return round(bucket_ms(index), 3)
    return round(bucket_ms(BUCKETS - 1), 3)
