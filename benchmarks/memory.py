"""Memory of 8 workers that import SQLAlchemy, zmq, pika and numpy, beside the peers: PSS of every process of the tree, in MiB.

    .venv/bin/python benchmarks/memory.py [--workers 8] [--venv DIR]

Fresh, and after each worker has used what it imported and collected garbage. Supervisor, logger, zygote, twin and ingress are counted.
"""

from __future__ import annotations

import argparse
import time

import rivals

from holdfast.testing.daemon import DaemonProcess, free_port

APP = """
from holdfast import Daemon, Job
import load

class Work(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    processes = {workers}

    def setup(self):
        load.begin()

    def handle(self, message):
        return message.body
"""
SETTLE = 1.5  # seconds until nothing moves any more


def peer(command: rivals.Command, workers: int, worked: bool) -> dict[str, float]:
    """The whole tree, with its master."""
    with rivals.scene() as folder, rivals.running(command(folder, workers), folder, worked=worked) as process:
        rivals.ready(folder, workers)
        time.sleep(SETTLE)
        return {"all": rivals.pss_mib([process.pid, *rivals.descendants(process.pid)])}


def ours(workers: int, worked: bool) -> dict[str, float]:
    """Every process of the daemon, and what each kind has of it."""
    with rivals.scene() as folder:
        app = APP.format(port=free_port(), workers=workers)
        with DaemonProcess(folder, app, environ=rivals.environ(folder, worked)) as daemon:
            daemon.start()
            rivals.ready(folder, workers)
            time.sleep(SETTLE)
            shares: dict[str, float] = {}
            for pid, name in daemon.processes().items():
                kind = name.removeprefix("hf:").partition("/")[0]
                shares[kind] = shares.get(kind, 0.0) + rivals.pss_mib([pid])
            return {"all": sum(shares.values()), **shares}


def main() -> None:
    """Run all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    given = rivals.in_one_environment(parser)
    print(f"{'PSS of ' + str(given.workers) + ' workers, MiB':30}{'fresh':>9}{'worked':>9}")
    for name, command in rivals.PEERS.items():
        if "0.5" not in name:
            fresh, worked = (peer(command, given.workers, state)["all"] for state in (False, True))
            print(f"{name:30}{fresh:9.0f}{worked:9.0f}", flush=True)
    both = [ours(given.workers, state) for state in (False, True)]
    for kind in both[0]:
        print(f"{'holdfast' if kind == 'all' else '  ' + kind:30}{both[0][kind]:9.1f}{both[1].get(kind, 0.0):9.1f}")


if __name__ == "__main__":
    main()
