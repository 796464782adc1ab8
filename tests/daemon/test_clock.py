"""The wall clock is set while the daemon runs: work goes on, and nothing that waits comes early, late or never."""

import os
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import zmq
from crowd import Crowd, ask, effects

from holdfast.testing.builds import Builds
from holdfast.testing.daemon import DaemonProcess, eventually, free_port

Make = Callable[..., DaemonProcess]
HOUR = 3600.0

#: At the entry of every process of a build: its wall clock is so many seconds off the machine's, as a file says.
WALL = """
import time

def _wall(real=time.time):
    with open({path!r}) as file:
        return real() + float(file.read())

if time.time.__name__ != "_wall":
    time.time = _wall
"""
TOML = """log = "state/{date}.log"
probation = "1s"

[jobs.Add]
processes = 2
retries = 3
backoff = "1s..1s"
answer_within = "1h"
inbox_keep = "48h"

[jobs.Long]
timeout = "50m"
"""
APP = """
import os, time
from holdfast import Job, Retry

class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "sqlite:///{folder}/add.db"
    schema = "CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER)"

    def identity(self, message):
        return message.text

    def handle(self, message, db):
        if message.attempt == 1 and message.text.startswith(("again", "later")):
            raise Retry("not now", after=3000 if message.text == "later" else None)
        db.execute("INSERT INTO account VALUES (:n, 1)", {{"n": message.text}})

class Long(Job):
    source = "zmq+rep://127.0.0.1:{other}"

    def handle(self, message):
        while not os.path.exists("go on"):
            time.sleep(0.01)
"""


class Wall:
    """The wall clock of a daemon."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0.0)

    def set(self, seconds: float) -> None:
        """So many seconds beside the machine's, for all processes at once."""
        coming = self._path.with_suffix(".new")
        coming.write_text(str(seconds))
        os.rename(coming, self._path)


def _beyond_midnight() -> float:
    """Seconds until it is tomorrow."""
    now = datetime.now().astimezone()
    return (now.replace(hour=0, minute=0, second=0) + timedelta(days=1, minutes=1) - now).total_seconds()


def _request(context: "zmq.Context[zmq.Socket[bytes]]", port: int, body: bytes) -> "zmq.Socket[bytes]":
    sock = context.socket(zmq.REQ)
    sock.linger = 0
    sock.connect(f"tcp://127.0.0.1:{port}")
    sock.send(body)
    return sock


def _goes_on(daemon: DaemonProcess, crowd: Crowd, port: int, number: int) -> None:
    """Messages are answered, tried again after their delay, known again; who dies is replaced."""
    before = crowd.answered
    eventually(lambda: crowd.answered > before + 50, "messages are answered")
    assert ask(port, f"again {number}") == b"TRUE"
    assert ask(port, "same") == b"TRUE"
    pids = _active(daemon)
    daemon.kill(min(pids))
    eventually(lambda: len(_active(daemon) - {min(pids)}) == len(pids), "it is replaced")


def _active(daemon: DaemonProcess) -> set[int]:
    """Workers of the first job."""
    return {worker["pid"] for worker in daemon.status()["jobs"][0]["workers"] if worker["state"] == "active"}


def test_a_wall_clock_that_is_set_changes_nothing(make: Make, builds: Builds, broken: Path) -> None:
    daemon = make(TOML, app="")
    port, other = free_port(), free_port()
    daemon.file.write_text(APP.format(port=port, other=other, folder=daemon.folder))
    wall = Wall(daemon.folder / "wall")
    entry = broken / "process.py"
    entry.write_text(entry.read_text().replace("import sys\n", "import sys\n" + WALL.format(path=str(daemon.folder / "wall")), 1))
    builds.use(broken.relative_to(builds.folder).parts[0])
    daemon.python = builds.python
    assert daemon.run("start", "--guard").returncode == 0, daemon.log()
    supervisor = daemon.pid
    with zmq.Context() as context, Crowd(port, reqs=4, window=20) as crowd:
        later, long = _request(context, port, b"later"), _request(context, other, b"x")
        eventually(lambda: daemon.status()["jobs"][1]["in_flight"], "it is begun")
        (worker,) = daemon.status()["jobs"][1]["workers"]
        for number, offset in enumerate((HOUR, 0.0, -HOUR, _beyond_midnight())):
            wall.set(offset)
            _goes_on(daemon, crowd, port, number)
        assert [w["pid"] for w in daemon.status()["jobs"][1]["workers"]] == [worker["pid"]], "it was taken for hung"
        assert daemon.status()["uptime_s"] < HOUR / 2
        (daemon.folder / "go on").touch()
        assert long.poll(60_000), "no answer"
        with subprocess.Popen(daemon.command("reload"), env=daemon.environ, stdout=subprocess.DEVNULL) as reload:
            eventually(lambda: "reload" in daemon.status() or reload.poll() is not None, "it is under way")
            wall.set(-HOUR)
            assert reload.wait(60) == 0
        assert not later.poll(0), "it was tried before its time"
        later.close()
        long.close()
    assert crowd.unanswered == set()
    assert (daemon.pid, daemon.status()["log_lines_lost"]) == (supervisor, 0)
    assert daemon.run("stop").returncode == 0
    done = {*crowd.answers, "same", *(f"again {number}" for number in range(4))}
    assert effects(daemon.folder / "add.db") == dict.fromkeys(done, 1)
    logs = sorted((daemon.folder / "state").glob("*.log"))
    assert len(logs) >= 2, "midnight has a file of its own"
    for log in logs:
        assert {line[:10] for line in log.read_text().splitlines()} == {log.stem}
