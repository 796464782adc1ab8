"""From SIGKILL of a worker to its replacement being at work, beside the peers and a bare fork of a process as warm; and from SIGKILL of the
supervisor to a worker being at work again, under the guard.

    .venv/bin/python benchmarks/restart.py [--trials 50] [--venv DIR]

Every worker imports SQLAlchemy, zmq, pika and numpy, and says itself when it is so far. `holdfast, run()` says it from inside the
job's loop, `holdfast, ZeroMQ + SQLite` is one that the supervisor has made active, its store open and its messages coming.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import rivals

from holdfast.testing.daemon import DaemonProcess, eventually, free_port

LOOP = """
from holdfast import Daemon, Job
from load import begin

class Loop(Job):
    def run(self):
        begin()
        while self.alive():
            self.sleep(3600)
"""
FEE = """
import load
from holdfast import Daemon, Job

class Fee(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "sqlite:///{folder}/fee.db"
    schema = "CREATE TABLE IF NOT EXISTS fee (ticket INTEGER)"

    def handle(self, message, db):
        db.execute("INSERT INTO fee VALUES (:t)", {{"t": message.text}})
"""


def peer(command: rivals.Command, trials: int) -> list[float]:
    """Milliseconds of each trial."""
    with rivals.scene() as folder, rivals.running(command(folder, 1), folder):
        return [_trial(folder) for _ in range(trials)]


def ours(trials: int) -> list[float]:
    """The same for a job with a loop of its own."""
    with rivals.scene() as folder, _daemon(folder, LOOP) as daemon:
        daemon.start()
        return [_trial(folder) for _ in range(trials)]


def supervisor(trials: int) -> list[float]:
    """SIGKILL of the supervisor instead; the guard's pauses begin with the fourth death in a row, so three trials share a daemon."""
    found: list[float] = []
    while len(found) < trials:
        with rivals.scene() as folder, _daemon(folder, LOOP) as daemon:
            assert daemon.run("start", "--guard").returncode == 0
            found += [_trial(folder, lambda _pid, daemon=daemon: daemon.pid) for _ in range(min(3, trials - len(found)))]
    return found


def active(trials: int) -> list[float]:
    """A job with source and store, looked at from outside once a millisecond."""
    found = []
    with rivals.scene() as folder, _daemon(folder, FEE.format(port=free_port(), folder=folder)) as daemon:
        daemon.start()
        for _ in range(trials):
            time.sleep(0.3 + random.random() * 0.2)
            (worker,) = daemon.workers()
            began = time.monotonic()
            os.kill(worker["pid"], signal.SIGKILL)
            eventually(lambda pid=worker["pid"]: [one for one in _look(daemon) if one["pid"] != pid], "the next one")
            found.append((time.monotonic() - began) * 1e3)
    return found


def _look(daemon: DaemonProcess) -> list[dict[str, object]]:
    return daemon.workers()


def _daemon(folder: Path, app: str) -> DaemonProcess:
    return DaemonProcess(folder, app, environ=rivals.environ(folder))


def _trial(folder: Path, victim: Callable[[int], int] = lambda pid: pid) -> float:
    (pid,) = rivals.ready(folder, 1)
    time.sleep(0.3 + random.random() * 0.7)
    rivals.forget(folder)
    began = time.monotonic()
    os.kill(victim(pid), signal.SIGKILL)
    (at,) = rivals.ready(folder, 1).values()
    return (at - began) * 1e3


def main() -> None:
    """Run all, one after the other; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--only", default="", metavar="TEXT,…", help="contestants whose names hold one of these")
    given = rivals.in_one_environment(parser)
    cases: dict[str, Callable[[int], list[float]]] = {
        name: lambda trials, command=command: peer(command, trials) for name, command in rivals.PEERS.items() if name != "uvicorn"
    }
    cases |= {"holdfast, run()": ours, "holdfast, ZeroMQ + SQLite": active, "holdfast, supervisor under guard": supervisor}
    print(f"{'SIGKILL to at work again, ms':36}{'trials':>8}{'least':>9}{'median':>9}{'worst':>9}")
    for name, case in cases.items():
        if not any(part in name for part in given.only.split(",")):
            continue
        took = case(given.trials if "circus" not in name and "guard" not in name else min(given.trials, 15))
        print(f"{name:36}{len(took):8}{min(took):9.1f}{statistics.median(took):9.1f}{max(took):9.1f}", flush=True)


if __name__ == "__main__":
    main()
