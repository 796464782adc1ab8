"""From faulthandler's text and a board to rows."""

from __future__ import annotations

import pytest

from holdfast.model import board, stacks
from holdfast.model.stacks import Frame

TEXT = """Thread 0x00007f0000000003 (most recent call first):
  File "/srv/fee.py", line 9 in poll
  File "/usr/lib/python3.11/threading.py", line 995 in _bootstrap

Thread 0x00007f0000000002 [Fee-1] (most recent call first):
  File "/srv/a "b".py", line ??? in handle

Current thread 0x00007f0000000001 [Fee-0] (most recent call first):
  <no Python frame>

Thread 0x00007f0000000000 (most recent call first):
  File "/lib/holdfast/worker/loop.py", line 70 in run
  File "/lib/holdfast/process.py", line 49 in <module>
"""


def reading(*begun: tuple[int, list[int]]) -> board.Reading:
    view = memoryview(bytearray(board.size(2, 20)))
    writer = board.BoardWriter(view, 2, 20, 1)
    for index, thread in enumerate(writer.threads):
        thread.belongs_to(0x7F0000000001 + index)
    for index, seqs in begun:
        writer.threads[index].begin_many(seqs, 10**9, 2 * 10**9)
    return board.read(view, 0)


def test_rows_of_all_threads() -> None:
    rows = stacks.rows(TEXT, reading((1, [0x1F])), job="Fee", epoch=0xA, now_ns=3 * 10**9)
    assert [(row.thread, row.doing, row.since_s) for row in rows] == [
        ("Fee-0", "idle", None),
        ("Fee-1", "handling a-1f", 2.0),
        ("I/O loop", "", None),
        ("another thread", "", None),
    ]
    assert rows[1].frames == (Frame('/srv/a "b".py', 0, "handle"),)
    assert rows[3].frames[0] == Frame("/srv/fee.py", 9, "poll")


def test_as_text() -> None:
    rows = stacks.rows(TEXT, reading((1, [0x1F])), job="Fee", epoch=0xA, now_ns=3 * 10**9)
    assert stacks.render("Fee/0.3", 17, rows[:2]).splitlines() == [
        "Fee/0.3 (PID 17)",
        "  Fee-0: idle",
        "  Fee-1: handling a-1f for 2.0 s",
        '    /srv/a "b".py:? in handle',
    ]


@pytest.mark.parametrize(
    ("seqs", "doing"),
    [
        ([], "taking new settings"),
        ([0], "handling a dead letter"),
        ([1, 2], "handling 1-1, 1-2"),
        (list(range(1, 13)), "handling 1-1, 1-2, 1-3, 1-4, 1-5, 1-6, 1-7, 1-8, 1-9, 1-a and 2 more"),
    ],
)
def test_what_a_thread_does(seqs: list[int], doing: str) -> None:
    assert stacks.rows("", reading((0, seqs)), job="Fee", epoch=1, now_ns=0)[0].doing == doing


def test_only_the_whole_text_is_whole() -> None:
    assert stacks.is_whole(TEXT)
    assert stacks.is_whole(TEXT.partition("Thread 0x00007f0000000000")[0] + "...\n")
    assert not any(stacks.is_whole(TEXT[:end]) for end in range(len(TEXT)))


def test_half_a_text_has_the_threads_that_are_there() -> None:
    for end in range(len(TEXT)):
        assert len(stacks.rows(TEXT[:end], reading(), job="Fee", epoch=1, now_ns=0)) >= 2
