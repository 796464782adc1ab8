"""The board: what a worker writes is what the supervisor reads, also after the worker has gone."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from holdfast.model import board


def _pair(threads: int = 2, batch: int = 8) -> tuple[board.BoardWriter, memoryview]:
    view = memoryview(bytearray(board.size(threads, batch)))
    return board.BoardWriter(view, threads, batch, pid=7), view


def test_an_unwritten_board_reads_as_empty() -> None:
    reading = board.read(bytes(board.size(1, 4)), 0)
    assert (reading.pid, reading.begun, reading.counters["handled"]) == (0, [], 0)


def test_only_begun_messages_are_blamed() -> None:
    writer, view = _pair()
    writer.threads[0].begin(41, 5, 9)
    writer.threads[0].end()
    writer.threads[1].begin_many([1, 2, 3], 6, 10)
    assert [(b.thread, b.since_ns, b.deadline_ns, b.seqs) for b in board.read(view, 0).begun] == [(1, 6, 10, (1, 2, 3))]


def test_a_board_of_the_version_before_is_read_too() -> None:
    """After an upgrade the workers of the program before are still there."""
    part = [5, 9, 1, 41, *[0] * 7, 3, *[0] * 7, *[0] * 16, *[0] * 64]  # batch 8; the first counter is "handled"
    view = struct.pack("<8Q", board.MAGIC, 1, 2, 8, 77, 0, 7, 0) + struct.pack(f"<{len(part)}Q", *part) * 2
    reading = board.read(view, 0)
    assert (reading.pid, reading.heartbeat_ns, reading.idents, reading.counters["handled"]) == (7, 77, [0, 0], 6)
    assert [(b.thread, b.since_ns, b.seqs) for b in reading.begun] == [(0, 5, (41,)), (1, 5, (41,))]


def test_threads_are_told_apart() -> None:
    writer, view = _pair()
    writer.threads[1].belongs_to(99)
    writer.threads[1].begin(1, 2, 3)
    assert board.read(view, 0).idents == [0, 99]


def test_counters_of_all_threads_are_summed() -> None:
    writer, view = _pair()
    for thread in writer.threads:
        thread.count("handled", 3)
    assert board.read(view, 0).counters["handled"] == 6


def test_the_rate_forgets_after_a_minute() -> None:
    writer, view = _pair(1)
    writer.threads[0].settled(5, [], 10**9)
    assert board.read(view, 2 * 10**9).last_minute == 5
    assert board.read(view, 90 * 10**9).last_minute == 0


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_percentiles_bound_the_latencies(latencies: list[int], share: float) -> None:
    writer, view = _pair(1)
    writer.threads[0].settled(len(latencies), latencies, 0)
    reading = board.read(view, 0)
    assert sum(reading.latency) == len(latencies)
    top = board.percentile_ms(reading.latency, 1.0)
    assert board.percentile_ms(reading.latency, share) <= top
    if max(latencies) < 2**44:
        assert max(latencies) / 1e6 <= top + 1e-3


@given(st.integers(0, 2**60), st.integers(0, 2**60))
def test_buckets_grow_with_the_latency(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert board.bucket(low) <= board.bucket(high)
