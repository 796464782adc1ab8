"""How often the processes of an idle daemon with 8 workers wake up: voluntary context switches a second, beside gunicorn and uvicorn.

    .venv/bin/python benchmarks/idle.py [--seconds 30] [--venv DIR]

A process that has gone to sleep by itself was awake before; so these are the wake-ups. Threads are counted too.
"""

from __future__ import annotations

import argparse
import time

import rivals

from holdfast.testing.daemon import DaemonProcess, free_port

WORKERS = 8
SETTLE = 5.0
APP = """
from holdfast import Daemon, Job
import load

class Fee(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "sqlite:///{folder}/fee.db"
    processes = {workers}

    def setup(self):
        load.begin()

    def handle(self, message, db):
        db.execute("SELECT 1")
"""


def watch(pids: dict[int, str], seconds: float) -> dict[str, float]:
    """Switches a second by the name of the process."""
    before = {pid: rivals.switches(pid) for pid in pids}
    time.sleep(seconds)
    rates: dict[str, float] = {}
    for pid, name in pids.items():
        rates[name] = rates.get(name, 0.0) + (rivals.switches(pid) - before[pid]) / seconds
    return rates


def peer(command: rivals.Command, seconds: float) -> dict[str, float]:
    """Master and workers."""
    with rivals.scene() as folder, rivals.running(command(folder, WORKERS), folder) as process:
        rivals.ready(folder, WORKERS)
        time.sleep(SETTLE)
        return watch({process.pid: "master", **dict.fromkeys(rivals.descendants(process.pid), "workers")}, seconds)


def ours(seconds: float) -> dict[str, float]:
    """Every process, under the guard."""
    with rivals.scene() as folder:
        app = APP.format(port=free_port(), folder=folder, workers=WORKERS)
        with DaemonProcess(folder, app, environ=rivals.environ(folder)) as daemon:
            assert daemon.run("start", "--guard").returncode == 0, daemon.log()
            rivals.ready(folder, WORKERS)
            time.sleep(SETTLE)
            names = {pid: name.removeprefix("hf:").partition("/")[0] for pid, name in daemon.processes().items()}
            return watch(names, seconds)


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    given = rivals.in_one_environment(parser)
    results = {name: peer(rivals.PEERS[name], given.seconds) for name in ("gunicorn", "uvicorn")} | {"holdfast": ours(given.seconds)}
    print(f"{'voluntary context switches a second, idle, ' + str(WORKERS) + ' workers':60}")
    for name, rates in results.items():
        print(f"{name:20}{sum(rates.values()):8.2f}   " + ", ".join(f"{kind} {rate:.2f}" for kind, rate in rates.items()))


if __name__ == "__main__":
    main()
