"""Events: whole lines, never an exception, never a wait."""

from __future__ import annotations

import fcntl
import json
import os
import select
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.telemetry import events


class Pipe:
    """A pipe that events are configured to write to; `lines` reads what is in it now."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def raw(self) -> bytes:
        parts = []
        try:
            while part := os.read(self.reading, 1 << 20):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts)

    def lines(self) -> list[dict[str, Any]]:
        *lines, rest = self.raw().split(b"\n")  # str.splitlines would cut at \x1e
        assert rest == b""
        assert all(line.startswith(b"\x1e") for line in lines)
        return [json.loads(line[1:]) for line in lines]

    def fill(self) -> int:
        os.set_blocking(self.writing, False)
        filled = 0
        try:
            while True:
                filled += os.write(self.writing, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(self.writing, True)
        return filled


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    events._writer.after_fork()  # forget the losses of other tests
    events.configure(fd=made.writing)
    yield made
    events.configure()
    os.close(made.reading)
    os.close(made.writing)


def test_an_event_is_one_marked_line(pipe: Pipe) -> None:
    events.configure(job="Fee", worker="Fee/0.1", fd=pipe.writing)
    events.log("worker.ready", "all\nset", threads=2)
    (line,) = pipe.lines()
    assert isinstance(line.pop("t"), float)
    assert line == {"level": "info", "event": "worker.ready", "job": "Fee", "worker": "Fee/0.1", "text": "all\nset", "threads": 2}


def test_job_and_worker_can_be_said_for_another(pipe: Pipe) -> None:
    events.log("worker.died", job="Fee", worker="Fee/0.17")
    (line,) = pipe.lines()
    assert (line["job"], line["worker"]) == ("Fee", "Fee/0.17")


@pytest.mark.parametrize(("least", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels_below_the_least_are_not_written(pipe: Pipe, least: str, written: int) -> None:
    events.configure(level=least, fd=pipe.writing)
    for level in events.LEVELS:
        events.log("an.event", level=level)
    assert [line["level"] for line in pipe.lines()] == list(events.LEVELS[4 - written :])


def test_a_full_pipe_drops_and_the_next_line_says_how_many(pipe: Pipe) -> None:
    pipe.fill()
    for _ in range(5):
        events.log("lost")
    pipe.raw()
    events.log("found")
    events.log("next")
    found, following = pipe.lines()
    assert (found["event"], found["dropped"]) == ("found", 5)
    assert "dropped" not in following


def test_a_long_line_into_a_crowded_pipe_is_cut_and_does_not_wait(pipe: Pipe) -> None:
    free = 4096
    filled = pipe.fill()
    os.read(pipe.reading, free)
    finished = threading.Event()

    def write() -> None:
        events.log("traceback", "head" + "x" * 20_000 + "tail")
        finished.set()

    thread = threading.Thread(target=write)
    thread.start()
    arrived = finished.wait(20)
    rest = pipe.raw()
    thread.join()
    assert arrived
    line = json.loads(rest[filled - free :].strip()[1:])
    assert line["text"].startswith("head")
    assert line["text"].endswith("tail")


@pytest.mark.parametrize("value", ["x" * 100_000, "é" * 100_000, "\x00" * 100_000, list(range(100_000)), {"deep": ["y" * 100_000]}])
def test_long_fields_are_cut_so_that_a_line_fits(pipe: Pipe, value: Any) -> None:
    fcntl.fcntl(pipe.writing, fcntl.F_SETPIPE_SZ, 1 << 18)
    events.log("long", "short text", value=value)
    raw = pipe.raw()
    assert 4096 < len(raw) <= events.LIMIT
    line = json.loads(raw[1:])
    assert line["text"] == "short text"
    assert " […] " in line["value"]


def test_too_many_fields_leave_a_line_that_says_so(pipe: Pipe) -> None:
    events.log("many", **{f"field{n}": n for n in range(10_000)})
    (line,) = pipe.lines()
    assert line["event"] == "log.unfit"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_nothing_that_is_logged_raises(pipe: Pipe) -> None:
    circle: list[Any] = []
    circle.append(circle)
    events.log("hostile", value=Hostile())
    events.log("circle", value=circle)
    events.log("odd", "\ud800", level="no such level", value=float("nan"), other=b"\xff")
    (line,) = pipe.lines()
    assert (line["event"], line["dropped"], line["text"]) == ("odd", 2, "\ud800")


@pytest.mark.parametrize("fd", [-1, 1_000_000])
def test_a_closed_descriptor_is_no_error(fd: int) -> None:
    events.configure(fd=fd)
    events.log("nowhere")
    events.configure()


def test_a_reader_that_has_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    events.configure(fd=writing)
    events.log("nobody reads")
    events.configure()
    os.close(writing)


def test_lines_of_threads_never_mix(pipe: Pipe) -> None:
    fcntl.fcntl(pipe.writing, fcntl.F_SETPIPE_SZ, 1 << 20)

    def write(number: int) -> None:
        for n in range(50):
            events.log("turn", "z" * (100 * number), thread=number, n=n)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = pipe.lines()
    for number in range(4):
        assert [line["n"] for line in lines if line["thread"] == number] == list(range(50))


def test_a_forked_child_logs_though_its_parent_held_the_lock_and_had_losses(pipe: Pipe) -> None:
    pipe.fill()
    events.log("lost")
    pipe.raw()
    with events._writer._lock:
        pid = os.fork()
        if pid == 0:
            threading.Thread(target=events.log, args=("child",)).start()
            [thread.join(20) for thread in threading.enumerate() if thread is not threading.main_thread()]
            os._exit(0)
    assert os.waitid(os.P_PID, pid, os.WEXITED) is not None
    (line,) = pipe.lines()
    assert line["event"] == "child"
    assert "dropped" not in line


def test_a_line_that_was_torn_ends_before_the_next(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_room", lambda _fd: events.LIMIT)
    filled = pipe.fill()
    os.read(pipe.reading, 4096)
    os.set_blocking(pipe.writing, False)
    events.log("torn", "x" * 10_000)
    assert select.select([pipe.reading], [], [], 0)[0]
    assert len(pipe.raw()) == filled
    events.log("whole")
    first, second = pipe.raw().split(b"\n")[:2]
    assert first == b""
    assert json.loads(second[1:])["dropped"] == 1
