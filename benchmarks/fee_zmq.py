"""The fee daemon on ZeroMQ and a database: committed messages a second, what they cost, and how soon a killed worker is replaced.

    .venv/bin/python benchmarks/fee_zmq.py [--messages 30000] [--runs 3]
    .venv/bin/python benchmarks/fee_zmq.py --server mariadb --server postgresql [--inbox 10000000] [--processes 2]

Every variant runs in each round, one after the other, and the table shows medians. A message is counted when it was answered,
which is after its commit; the number of rows is checked in every trial. Load and daemon share the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fee_servers
import zmq
from fee_servers import cpu

from holdfast.testing import DaemonProcess, eventually, free_port

HERE = Path(__file__).resolve().parent
APP = '''
from holdfast import Daemon, Job

class Fee(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "{store}"
    schema = """{schema}"""
{identity}
{work}

if __name__ == "__main__":
    Daemon(Fee).main()
'''
IDENTITY = "    def identity(self, message):\n        return message.body.partition(b',')[0]\n"
HANDLE = """    def handle(self, message, db):
        ticket, login, volume = message.text.split(",")
        db.execute("INSERT INTO fee (ticket, login, volume, status) VALUES (:t, :l, :v, 'N')", {"t": ticket, "l": login, "v": volume})
        db.execute("UPDATE fee SET status = 'Y' WHERE ticket = :t AND status = 'N'", {"t": ticket})
        return "TRUE"
"""
HANDLE_BATCH = """    def handle_batch(self, messages, db):
        rows = [dict(zip("tlv", m.text.split(","))) for m in messages]
        db.execute("INSERT INTO fee (ticket, login, volume, status) VALUES (:t, :l, :v, 'N')", rows)
        db.execute("UPDATE fee SET status = 'Y' WHERE ticket IN :tickets AND status = 'N'", {"tickets": [r["t"] for r in rows]})
"""
SQLITE = """CREATE TABLE IF NOT EXISTS fee (ticket INTEGER, login TEXT, volume NUMERIC, status CHAR(1));
                CREATE INDEX IF NOT EXISTS fee_ticket ON fee (ticket)"""
VARIANTS = [(work, named) for work in ("handle", "handle_batch") for named in (False, True)]


def load_dealer(endpoint: str, messages: int, window: int = 1000) -> None:
    """One pipelining client."""
    sock = zmq.Context().socket(zmq.DEALER)
    sock.connect(endpoint)
    for n in range(min(window, messages)):
        sock.send_multipart([b"", b"%d,10001,1.50" % n])
    sent = min(window, messages)
    for _ in range(messages):
        assert sock.recv_multipart()[-1] == b"TRUE"
        if sent < messages:
            sock.send_multipart([b"", b"%d,10001,1.50" % sent])
            sent += 1


def load_reqs(endpoint: str, messages: int, clients: int = 64) -> None:
    """Many lock-step clients in one process."""
    context, poller = zmq.Context(), zmq.Poller()
    socks = [context.socket(zmq.REQ) for _ in range(clients)]
    for sent, sock in enumerate(socks):
        sock.connect(endpoint)
        sock.send(b"%d,10001,1.50" % sent)
        poller.register(sock, zmq.POLLIN)
    sent, done = clients, 0
    while done < messages:
        for sock, _ in poller.poll():
            assert sock.recv() == b"TRUE"
            done += 1
            if sent < messages:
                sock.send(b"%d,10001,1.50" % sent)
                sent += 1


def ingress_of(daemon: DaemonProcess) -> int:
    """The ingress's PID."""
    return next(pid for pid, name in daemon.processes().items() if name == "hf:ingress")


def trial(work: str, named: bool, client: str, messages: int) -> dict[str, float]:
    """One daemon, one load: rate and CPU."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        body = {"handle": HANDLE, "handle_batch": HANDLE_BATCH}[work]
        app = APP.format(port=port, store=f"sqlite:///{folder}/fee.db", schema=SQLITE, work=body, identity=IDENTITY if named else "")
        with DaemonProcess(folder, app) as daemon:
            daemon.start()
            ingress, (worker,) = ingress_of(daemon), daemon.workers()
            before = cpu(ingress), cpu(worker["pid"])
            began = time.perf_counter()
            subprocess.run([sys.executable, __file__, "--load", client, f"tcp://127.0.0.1:{port}", str(messages)], check=True)
            took = time.perf_counter() - began
            after = cpu(ingress), cpu(worker["pid"])
            latency = daemon.status()["jobs"][0]["latency_ms"]
        with sqlite3.connect(folder / "fee.db") as db:
            (rows,) = db.execute("SELECT count(*) FROM fee WHERE status = 'Y'").fetchone()
        assert rows == messages, f"{rows} rows of {messages} messages"
    micro = [(late - early) / messages * 1e6 for late, early in zip(after, before, strict=True)]
    return {"rate": messages / took, "ingress": micro[0], "worker": micro[1], "p99": latency["p99"]}


def replacement(kills: int) -> list[float]:
    """Milliseconds from SIGKILL of a worker to the next being active, as the control socket tells it."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        app = APP.format(port=port, store=f"sqlite:///{folder}/fee.db", schema=SQLITE, work=HANDLE, identity="")
        with DaemonProcess(folder, app) as daemon:
            daemon.start()
            for _ in range(kills):
                (worker,) = daemon.workers()
                began = time.perf_counter()
                os.kill(worker["pid"], signal.SIGKILL)  # its PID was told by its own supervisor just now
                while not [w for w in daemon.workers() if w["pid"] != worker["pid"]]:
                    pass
                found.append((time.perf_counter() - began) * 1e3)
                eventually(lambda: len(daemon.workers()) == 1, "one worker is active")
    return found


def bare_forks(count: int) -> list[float]:
    """Milliseconds of a bare fork of a process as warm as the zygote, until the child is reaped."""
    code = (
        "import gc, os, time, sqlalchemy, msgspec, holdfast.worker.boot as b; b.preload(); gc.collect(); gc.freeze()\n"
        f"for _ in range({count}):\n"
        "    began = time.perf_counter(); pid = os.fork()\n"
        "    if not pid: os._exit(0)\n"
        "    os.waitpid(pid, 0); print((time.perf_counter() - began) * 1e3)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(line) for line in told.stdout.split()]


def on_server(*, port: int, store: str, work: str, more: str) -> str:
    """The app for a database server, with identities."""
    body = {"handle": HANDLE, "handle_batch": HANDLE_BATCH}[work]
    return APP.format(port=port, store=store, schema=fee_servers.TABLE, work=body, identity=more + IDENTITY)


def main() -> None:
    """Run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--load", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--server", action="append", choices=["mariadb", "postgresql"], help="a database server instead of SQLite")
    parser.add_argument("--inbox", type=int, default=0, help="rows in the server's inbox before it begins")
    parser.add_argument("--client", action="append", choices=["reqs", "dealer"], help="of the runs on a server; both by default")
    parser.add_argument("--processes", type=int, default=2, help="workers on a server")
    parser.add_argument("--threads", type=int, default=1, help="of each worker on a server; more are slower where processors are few")
    arguments = parser.parse_args()
    for kind in arguments.server or ():
        fee_servers.run(kind, on_server, __file__, arguments)
    if arguments.server:
        return
    if arguments.load:
        {"dealer": load_dealer, "reqs": load_reqs}[arguments.load[0]](arguments.load[1], int(arguments.load[2]))
        return
    cases = [(client, *variant) for client in ("dealer", "reqs") for variant in VARIANTS]
    results: dict[tuple[str, str, bool], list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(arguments.runs):
        for client, work, named in cases:
            print(f"round {number + 1}: {client}, {work}, identity {named}", file=sys.stderr)
            results[client, work, named].append(trial(work, named, client, arguments.messages))
    print(f"{'client':24}{'work':14}{'identity':10}{'messages/s':>11}{'ingress µs':>12}{'worker µs':>11}{'p99 ms':>9}")
    titles = {"dealer": "DEALER, 1000 in flight", "reqs": "64 REQ"}
    for (client, work, named), trials in results.items():
        middle = {key: statistics.median(t[key] for t in trials) for key in trials[0]}
        row = f"{titles[client]:24}{work:14}{'yes' if named else 'no':10}{middle['rate']:11.0f}"
        print(f"{row}{middle['ingress']:12.1f}{middle['worker']:11.1f}{middle['p99']:9.1f}")
    forks, killed = bare_forks(50), replacement(arguments.kills)
    print(f"\nSIGKILL of a worker to the next being active: median {statistics.median(killed):.1f} ms, worst {max(killed):.1f} ms")
    print(f"a bare fork of a process as warm: median {statistics.median(forks):.1f} ms")


if __name__ == "__main__":
    main()
