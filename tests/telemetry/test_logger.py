"""The logger process, with real pipes and real files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.linux.channel import Channel, Packet, to_memfd

ENTRY = Path(holdfast.__file__).with_name("process.py")
PATIENCE = 30.0


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something holds; give back what it gave."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, "it never came to hold"
        select.select([], [], [], 0.01)
    return result


class Running:
    """One logger process, its supervisor played by the test."""

    def __init__(self, path: str | Path, stderr: int = 2, **boot: Any) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(ours)
        document = to_memfd("boot", json.dumps({"path": str(path), "stderr": stderr, **boot}).encode())
        command = [sys.executable, "-I", "-S", str(ENTRY), "logger", "--channel", str(theirs.fileno()), "--boot", str(document)]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno(), document, stderr], umask=0o022)
        theirs.close()
        os.close(document)
        self.said: list[Packet] = []
        self.hear("ready")

    def hear(self, word: str) -> Packet:
        """The next packet of this kind."""
        deadline = time.monotonic() + PATIENCE
        while True:
            received = self.channel.receive()
            if received is None:
                assert select.select([self.channel], [], [], max(0, deadline - time.monotonic()))[0], f"never said {word}"
                continue
            self.said.append(received[0])
            if received[0]["say"] == word:
                return received[0]

    def pipe(self, job: str = "Fee", worker: str = "Fee/0.1") -> int:
        """The write end of a new log pipe."""
        reading, writing = os.pipe()
        assert self.channel.send({"do": "pipe", "id": worker, "job": job, "worker": worker}, [reading])
        os.close(reading)
        return writing

    def finish(self) -> int:
        assert self.channel.send({"do": "finish"})
        return self.process.wait(PATIENCE)


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*arguments: Any, **boot: Any) -> Running:
        started.append(Running(*arguments, **boot))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
        running.channel.close()


def rows(path: Path) -> list[list[str]]:
    """Lines of a log file by column; a line that is not whole is an error."""
    text = path.read_text() if path.exists() else ""
    assert text == "" or text.endswith("\n")
    return [line.split("\t") for line in text.split("\n")[:-1]]


def texts(path: Path) -> list[str]:
    return [row[5] for row in rows(path)]


def event(name: str, at: float | None = None, **fields: Any) -> bytes:
    moment = time.time() if at is None else at
    return (
        b"\x1e" + json.dumps({"t": moment, "level": "info", "event": name, "job": "", "worker": "", "text": "", **fields}).encode() + b"\n"
    )


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def test_events_and_output_become_lines(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log")
    fd = running.pipe("Fee", "Fee/0.1")
    write_all(fd, event("worker.ready", text="all set", threads=2) + b"hello\nwor\xffld\n\x1e{broken\n" + event("traceback", text="a\nb"))
    os.close(fd)
    assert running.finish() == 0
    written = rows(tmp_path / "fee.log")
    assert [row[1:] for row in written] == [
        ["INFO", "worker.ready", "Fee", "Fee/0.1", "all set", "threads=2"],
        ["INFO", "output", "Fee", "Fee/0.1", "hello"],
        ["INFO", "output", "Fee", "Fee/0.1", "wor\\\\xffld"],
        ["INFO", "output", "Fee", "Fee/0.1", "\\x1e{broken"],
        ["INFO", "traceback", "Fee", "Fee/0.1", "a\\nb"],
    ]
    assert all(abs(datetime.fromisoformat(row[0]).timestamp() - time.time()) < 3600 for row in written)
    assert (tmp_path / "fee.log").stat().st_mode & 0o777 == 0o640


def test_json_lines_and_the_least_level(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log", format="json", level="warning")
    fd = running.pipe()
    write_all(fd, event("quiet") + event("loud", level="error", n=1) + b"printed\n")
    os.close(fd)
    assert running.finish() == 0
    lines = [json.loads(line) for line in (tmp_path / "fee.log").read_text().splitlines()]
    assert [(line["event"], line["level"], line["text"]) for line in lines] == [("loud", "error", ""), ("output", "info", "printed")]


def test_lines_of_many_pipes_stay_whole_and_in_order(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log")
    pipes = {name: running.pipe("Fee", name) for name in ("a", "b", "c", "d")}

    def talk(name: str, fd: int) -> None:
        for n in range(2000):
            line = event("turn", n=n, fill=name * (n % 200)) if n % 2 else f"turn {n} {name * (n % 300)}\n".encode()
            at = n % len(line)
            write_all(fd, line[:at])
            write_all(fd, line[at:])
        os.close(fd)

    threads = [threading.Thread(target=talk, args=item) for item in pipes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert running.finish() == 0
    written = rows(tmp_path / "fee.log")
    for name in pipes:
        of_one = [row for row in written if row[4] == name]
        assert [row[6].removeprefix("n=") if row[2] == "turn" else row[5].split()[1] for row in of_one] == [str(n) for n in range(2000)]
        assert all(set(row[-1].removeprefix("fill=").split(" ")[-1]) <= {name} for row in of_one)


def test_a_late_line_goes_into_the_file_of_its_own_date(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "{date}.log")
    fd = running.pipe()
    today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(seconds=0.1)
    for n in range(3):
        write_all(fd, event("early", today.timestamp() + 0.1, n=n) + event("late", yesterday.timestamp(), n=n))
    os.close(fd)
    assert running.finish() == 0
    for moment, name in ((today, "early"), (yesterday, "late")):
        assert [row[2:3] + row[6:] for row in rows(tmp_path / f"{moment.date()}.log")] == [[name, f"n={n}"] for n in range(3)]


def test_rotation_by_rename_and_reopen_loses_nothing(run: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "fee.log"
    running = run(path)
    fd = running.pipe()
    written = 0
    for turn in range(5):
        for _ in range(200):
            write_all(fd, b"line %d\n" % written)
            written += 1
        path.rename(tmp_path / f"fee.log.{turn}")
        write_all(fd, b"line %d\n" % written)
        written += 1
        assert running.channel.send({"do": "reopen"})
        until(path.exists)
    os.close(fd)
    assert running.finish() == 0
    files = [tmp_path / f"fee.log.{turn}" for turn in range(5)] + [path]
    assert [text for file in files for text in texts(file)] == [f"line {n}" for n in range(written)]


def test_a_removed_directory_is_made_again(run: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "logs" / "deep" / "fee.log"
    running = run(path)
    fd = running.pipe()
    write_all(fd, b"before\n")
    until(lambda: texts(path) == ["before"])
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    write_all(fd, b"after\n")
    until(lambda: texts(path) == ["after"])
    os.close(fd)
    assert running.finish() == 0


def limit_files(running: Running, size: int) -> None:
    """From now on a file of this process cannot grow beyond `size` bytes: what a full disk is, without one."""
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_full_disk_stops_nothing_and_what_fits_in_memory_is_written_later(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log")
    fd = running.pipe()
    limit_files(running, 1000)
    for n in range(5000):
        write_all(fd, b"line %d\n" % n)
    lost = running.hear("lost")
    assert (lost["lines"], bool(lost["reason"])) == (0, True)
    assert (tmp_path / "fee.log").stat().st_size == 1000
    limit_files(running, resource.RLIM_INFINITY)
    running.hear("writing")
    os.close(fd)
    assert running.finish() == 0
    assert texts(tmp_path / "fee.log") == [f"line {n}" for n in range(5000)]


def test_what_does_not_fit_is_counted_and_the_count_stands_where_lines_are_missing(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log")
    fd = running.pipe()
    limit_files(running, 0)
    total = 5000
    for n in range(total):
        write_all(fd, b"line %d %s\n" % (n, b"x" * 1000))
    running.hear("lost")
    until(lambda: fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) and not waiting(fd))
    limit_files(running, resource.RLIM_INFINITY)
    running.hear("writing")
    write_all(fd, b"line again\n")
    os.close(fd)
    assert running.finish() == 0
    written = rows(tmp_path / "fee.log")
    (at,) = [index for index, row in enumerate(written) if row[2] == "log.lost"]
    lines = int(written[at][6].removeprefix("lines="))
    assert [row[5].split()[1] for row in written[:at]] == [str(n) for n in range(at)]
    assert [row[5].split()[1] for row in written[at + 1 :]] == [*map(str, range(at + lines, total)), "again"]
    assert lines > 0
    assert sum(packet.get("lines", 0) for packet in running.said) == lines


def waiting(fd: int) -> int:
    return int.from_bytes(fcntl.ioctl(fd, 0x541B, bytes(4)), sys.byteorder)


@contextlib.contextmanager
def small_disk(at: Path) -> Iterator[Path]:
    """A path on a full file system: one of our own, where we may mount it, else the device that is always full."""
    at.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", at]
    mounted = os.geteuid() == 0 and subprocess.run(command, check=False, capture_output=True).returncode == 0
    try:
        yield at / "fee.log" if mounted else Path("/dev/full")
    finally:
        if mounted:
            subprocess.run(["umount", "-l", at], check=True)


def test_no_space_left_is_said_by_name(run: Callable[..., Running], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as path:
        running = run(path)
        fd = running.pipe()
        for n in range(2000):
            write_all(fd, b"line %d %s\n" % (n, b"x" * 1000))
        os.close(fd)
        assert running.finish() == 0
        while running.said[-1]["say"] != "lost" or not running.said[-1]["lines"]:
            running.hear("lost")
        assert "No space left" in running.said[-1]["reason"]
        while (received := next_packet(running)) is not None:
            running.said.append(received)
        lost = sum(packet.get("lines", 0) for packet in running.said)
        kept = sum(line.endswith(b"x") for line in path.read_bytes().split(b"\n")[:-1]) if path.is_file() else 0
        assert kept + lost == 2000


def next_packet(running: Running) -> Packet | None:
    try:
        received = running.channel.receive()
    except EOFError:
        return None
    return received[0] if received else None


@pytest.mark.parametrize("obstacle", ["directory", "symlink", "file in the way"])
def test_a_place_that_cannot_be_written_is_said_at_the_start(run: Callable[..., Running], tmp_path: Path, obstacle: str) -> None:
    path, elsewhere = tmp_path / "fee.log", tmp_path / "elsewhere"
    if obstacle == "directory":
        path.mkdir()
    elif obstacle == "symlink":
        path.symlink_to(elsewhere)
    else:
        path.touch()
        path = path / "fee.log"
    running = run(path)
    assert running.hear("lost")["lines"] == 0
    fd = running.pipe()
    write_all(fd, b"one\ntwo\n")
    os.close(fd)
    assert running.finish() == 0
    assert running.hear("lost")["lines"] == 2
    assert not elsewhere.exists()


def test_a_reader_of_standard_error_that_is_slow_holds_nobody_up(run: Callable[..., Running]) -> None:
    reading, writing = os.pipe()
    running = run("-", stderr=writing)
    os.close(writing)
    fd = running.pipe()
    total = 4000
    for n in range(total):
        write_all(fd, b"line %d %s\n" % (n, b"x" * 1000))
    assert running.hear("lost")["reason"] == "its reader is too slow"
    os.close(fd)
    collected = bytearray()

    def collect() -> None:
        while part := os.read(reading, 65536):
            collected.extend(part)

    thread = threading.Thread(target=collect)
    thread.start()
    running.hear("writing")
    assert running.finish() == 0
    thread.join()
    os.close(reading)
    written = [line.split("\t") for line in collected.decode().split("\n")[:-1]]
    lost = sum(int(row[6].removeprefix("lines=")) for row in written if row[2] == "log.lost")
    kept = [int(row[5].split()[1]) for row in written if row[2] == "output"]
    assert kept == sorted(set(kept))
    assert lost + len(kept) == total
    assert lost > 0


def test_a_line_that_never_ends_is_cut_and_a_begun_line_is_kept(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log")
    fd = running.pipe()
    write_all(fd, b"y" * 200_000 + b"\nshort\nbegun")
    os.close(fd)
    assert running.finish() == 0
    written = rows(tmp_path / "fee.log")
    assert [row[6:] for row in written] == [["part=1"], ["part=2"], ["part=3"], ["part=4"], [], []]
    assert "".join(row[5] for row in written[:4]) == "y" * 200_000
    assert [row[5] for row in written[4:]] == ["short", "begun"]


def test_without_a_supervisor_it_goes_on_until_nobody_can_write(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log")
    fds = [running.pipe("Fee", name) for name in ("a", "b")]
    running.channel.close()
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        running.process.send_signal(signum)
    for n, fd in enumerate(fds):
        write_all(fd, b"last words %d\n" % n)
        until(lambda n=n: len(rows(tmp_path / "fee.log")) == n + 1)
        assert running.process.poll() is None
        os.close(fd)
    assert running.process.wait(PATIENCE) == 0
    assert texts(tmp_path / "fee.log") == ["last words 0", "last words 1"]


def test_finish_without_pipes_is_the_end(run: Callable[..., Running], tmp_path: Path) -> None:
    assert run(tmp_path / "fee.log").finish() == 0


def test_a_new_logger_takes_over_a_pipe_without_losing_a_line(run: Callable[..., Running], tmp_path: Path) -> None:
    path = tmp_path / "fee.log"
    first = run(path)
    reading, writing = os.pipe()
    packet = {"do": "pipe", "id": "w", "job": "Fee", "worker": "w"}
    assert first.channel.send(packet, [reading])
    write_all(writing, b"one\n")
    until(lambda: texts(path) == ["one"])
    first.process.kill()
    first.process.wait()
    write_all(writing, b"two\n")
    second = run(path)
    assert second.channel.send(packet, [reading])
    os.close(reading)
    write_all(writing, b"three\n")
    os.close(writing)
    assert second.finish() == 0
    assert texts(path) == ["one", "two", "three"]


def switches(pid: int) -> str:
    return next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary"))


def test_it_sleeps_while_nothing_comes(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "{date}.log")
    fd = running.pipe()
    write_all(fd, b"line\n")
    until(lambda: any(texts(file) for file in tmp_path.iterdir()))
    until(lambda: "\nState:\tS" in Path(f"/proc/{running.process.pid}/status").read_text())
    before = switches(running.process.pid)
    assert select.select([running.channel], [], [], 0.5)[0] == []
    assert switches(running.process.pid) == before
    os.close(fd)
    assert running.finish() == 0


def test_odd_packets_are_ignored_and_their_descriptors_closed(run: Callable[..., Running], tmp_path: Path) -> None:
    running = run(tmp_path / "fee.log")
    reading, writing = os.pipe()
    assert running.channel.send({"do": "dance"}, [reading])
    assert running.channel.send({"do": "pipe"})
    os.close(reading)
    watch = select.poll()
    watch.register(writing, select.POLLERR)
    assert watch.poll(PATIENCE * 1000)
    os.close(writing)
    assert running.finish() == 0


def test_words_of_another_version_do_no_harm(run: Callable[..., Running], tmp_path: Path) -> None:
    logger = run(tmp_path / "fee.log")
    read, write = os.pipe()
    assert logger.channel.send({"do": "frobnicate", "mood": "good"}, [write])
    os.close(write)
    assert os.read(read, 1) == b"", "what came with it is closed"
    os.close(read)
    pipe = logger.pipe()
    os.write(pipe, b"still there\n")
    os.close(pipe)
    assert logger.finish() == 0
    assert "still there" in (tmp_path / "fee.log").read_text()
