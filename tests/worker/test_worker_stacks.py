"""The stacks of a real worker's threads, also of one that can do nothing but answer a signal."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
from nursery import Nursery, Ward, until

from holdfast.linux.process import STACKS_SIGNAL
from holdfast.model import stacks

FEE = """
import ctypes, os, re, signal, threading, time
from holdfast import Job

class Fee(Job):
    def handle(self, message):
        word, _, rest = message.text.partition(" ")
        open(word + ".began", "w").close()
        return getattr(self, "do_" + word)(rest) or "done"

    def do_block(self, rest):
        threading.Event().wait()

    def do_gil(self, rest):
        ctypes.PyDLL(None).usleep(60_000_000)

    def do_regex(self, rest):
        re.match("(a+)+b", "a" * 64)

    def do_thread(self, rest):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


def begun(nursery: Nursery, word: str) -> None:
    until(lambda: (nursery.folder / f"{word}.began").exists(), "the handler's beginning")


def rows_of(ward: Ward) -> list[stacks.Row]:
    ward.ask_for_stacks()
    text = until(lambda: (told := ward.told_stacks()) and stacks.is_whole(told) and told, "the stacks")
    assert text.startswith(("Thread", "Current"))
    return stacks.rows(text, ward.reading(), job="Fee", epoch=7, now_ns=time.monotonic_ns())


def rows_with(ward: Ward, function: str, *, others: str = "") -> list[stacks.Row]:
    """Asked again until the handler has got there, and every other thread to the function where it waits, if one is named.

    Where the handler holds the interpreter none is: the others stay wherever they are.
    """

    def found() -> list[stacks.Row] | None:
        rows = rows_of(ward)
        handlers = [{frame.function for frame in row.frames} for row in rows if row.doing]
        arrived = not others or all(names & {function, others} for names in handlers)
        return rows if arrived and any(function in names for names in handlers) else None

    return until(found, function)


@pytest.mark.parametrize("spawn", ["fork", "exec"])
def test_every_handler_thread_with_its_message(nursery: Nursery, spawn: str) -> None:
    nursery.loaded("import standin_engine\n" + FEE)
    ward = nursery.spawn(threads=3, spawn=spawn).active()
    ward.deliver(b"block", first=0x2A)
    rows = rows_with(ward, "do_block", others="take")
    assert sorted((row.thread, row.doing) for row in rows) == [
        ("Fee-0", "handling 7-2a" if rows[0].since_s is not None else "idle"),
        ("Fee-1", "handling 7-2a" if rows[1].since_s is not None else "idle"),
        ("Fee-2", "handling 7-2a" if rows[2].since_s is not None else "idle"),
        ("I/O loop", ""),
    ]
    (busy,) = [row for row in rows if row.since_s is not None]
    assert busy.messages == ("7-2a",)
    assert "do_block" in [frame.function for frame in busy.frames]
    assert Path(next(frame.file for frame in busy.frames if frame.function == "do_block")) == nursery.folder / "fee.py"
    assert all("take" in [frame.function for frame in row.frames] for row in rows if row.doing == "idle")
    assert rows_of(ward)[3].frames[-1].function == "<module>"
    told = stacks.render("Fee/0.1", ward.pid, rows)
    assert f"Fee/0.1 (PID {ward.pid})\n" in told
    assert re.search(rf"{nursery.folder}/fee\.py:\d+ in do_block\n", told)


@pytest.mark.parametrize("word", ["gil", "regex"])
def test_a_handler_that_holds_the_interpreter_in_c(nursery: Nursery, word: str) -> None:
    """Nothing of Python runs in that process, and its loop is as stuck as its handlers."""
    nursery.loaded(FEE)
    ward = nursery.spawn(threads=2).active()
    ward.deliver(word.encode())
    (busy,) = [row for row in rows_with(ward, f"do_{word}") if row.since_s is not None]
    assert f"do_{word}" in [frame.function for frame in busy.frames]
    ward.kill()


def test_a_thread_of_the_applications_own_is_shown_too(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn().active()
    ward.deliver(b"thread")
    ward.settled(1)
    assert [row.thread for row in rows_of(ward)] == ["Fee-0", "I/O loop", "another thread"]


def test_a_stopped_worker_answers_nothing_and_its_board_tells_what_it_handles(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn().active()
    ward.deliver(b"block")
    begun(nursery, "block")
    os.kill(ward.pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{ward.pid}/stat").read_text().split()[2] == "T", "the stop")
    ward.ask_for_stacks()
    rows = stacks.rows(ward.told_stacks(), ward.reading(), job="Fee", epoch=7, now_ns=time.monotonic_ns())
    assert [(row.thread, row.doing, row.frames) for row in rows] == [("Fee-0", "handling 7-1", ())]
    assert "no stacks: it is stopped" in stacks.render("Fee/0.1", ward.pid, rows, "it is stopped")
    os.kill(ward.pid, signal.SIGCONT)
    until(lambda: stacks.is_whole(ward.told_stacks()), "the stacks")


def test_asking_a_child_that_is_not_ready_for_it_does_no_harm(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    twin = nursery.spawn("twin")
    twin.expect("twin")
    os.kill(twin.pid, STACKS_SIGNAL)
    os.kill(nursery.process.pid, STACKS_SIGNAL)
    assert isinstance(nursery.spawn(by=twin), Ward)
    assert isinstance(nursery.spawn(), Ward)
