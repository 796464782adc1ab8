"""Three RabbitMQ nodes, one database and three daemons, as on three hosts; and what is left of the messages when nodes and daemons die.

    .venv/bin/python examples/cluster/cluster.py [--messages 100000] [--seconds 20] [--frozen 8] [--majority 10]

While messages are published, the node that leads the queue is SIGKILLed and started again; meanwhile the supervisor of one daemon is, too,
and then all processes of another are stopped for longer than the broker waits for them, and continued. With --majority two nodes of
three are then SIGKILLed together. Exits 0 only if nothing was lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

from feeder import Feeder

from holdfast.testing import DaemonProcess
from holdfast.testing.databases import Databases, query

HERE = Path(__file__).resolve().parent
SERVICES = HERE.parents[1] / "scripts" / "services"
NODES = ("rabbitmq1", "rabbitmq2", "rabbitmq3")
HOSTS = ("one", "two", "three")
QUEUE = "bookings"
PATIENCE = 120.0  # seconds without a new effect after which the rest is lost


def say(text: str = "") -> None:
    print(text, flush=True)


class Servers:
    """The nodes and the database, by ./scripts/services. What did not run before is stopped at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mine: list[str] = []
        self.urls: dict[str, str] = {}

    def run(self, *words: str) -> str:
        command = [sys.executable, str(SERVICES), *words, "--directory", str(self.directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stdout}{done.stderr}")
        return done.stdout

    def control(self, *words: str) -> str:
        """rabbitmqctl at a node that runs."""
        there = json.loads(self.run("status", *NODES, "--json"))
        return self.run("ctl", next(iter(there)), *words)

    @contextmanager
    def running(self) -> Iterator[Servers]:
        names = (*NODES, "mariadb")
        there = json.loads(self.run("status", *names, "--json"))
        self.mine = [name for name in names if name not in there]
        try:
            told = json.loads(self.run("start", *names, "--json"))
            self.urls = {name: facts["url"] for name, facts in told.items()}
            yield self
        finally:
            if self.mine:
                self.run("stop", *self.mine)

    @property
    def cluster(self) -> str:
        """All nodes in one URL."""
        return self.nearest(0)

    def nearest(self, number: int) -> str:
        """The same, beginning with this node: each host asks its own first."""
        places = [f"127.0.0.1:{self._port(name)}" for name in (*NODES[number:], *NODES[:number])]
        return f"amqp://guest:guest@{','.join(places)}/"

    def leader(self) -> str:
        """The node that leads the queue. A cluster that has much to do may not say it at once."""
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            rows = [line.split() for line in self.control("list_queues", "name", "leader").splitlines()]
            for where in (row[1] for row in rows if row[:1] == [QUEUE] and len(row) > 1):
                return next(name for name in NODES if f"holdfast{self._port(name)}@" in where)
        raise SystemExit(f"the cluster does not say which node leads the queue {QUEUE}")

    def depths(self) -> dict[str, int]:
        """Messages of each queue, those that are with a consumer included."""
        rows = [line.split() for line in self.control("list_queues", "name", "messages").splitlines()]
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

    def forget(self) -> None:
        """Delete what an earlier show has left."""
        for name in self.depths():
            if name.startswith(QUEUE):
                self.control("delete_queue", name)

    def _port(self, name: str) -> int:
        return urlsplit(self.urls[name]).port or 0


def lay_out(folder: Path, host: str, source: str, store: str) -> DaemonProcess:
    """A directory of its own for a daemon, as a host would have it."""
    folder.mkdir()
    (folder / "host.ini").write_text(f"[host]\nname = {host}\n")
    job = f'source = "{source}"\nstore = "{store}"\ncrash_limit = 1000\n'
    return DaemonProcess(folder, (HERE / "booking.py").read_text(), toml=f'settings = "host.ini"\n[jobs.Booking]\n{job}')


@dataclass
class Show:
    """What is on the stage."""

    servers: Servers
    daemons: dict[str, DaemonProcess]
    store: str
    feeder: Feeder

    def effects(self) -> int:
        return int(query(self.store, "SELECT count(*) FROM booking")[0][0])

    @contextmanager
    def node_dies(self) -> Iterator[None]:
        """And comes back meanwhile."""
        name = self.servers.leader()
        self._says(f"SIGKILL to {name}, which leads the queue")
        self.servers.run("kill", name)
        with ThreadPoolExecutor(1) as pool:
            back = pool.submit(self._comes_back, name)
            yield
            back.result()

    def _comes_back(self, name: str) -> None:
        self.servers.run("start", name)
        self._says(f"{name} is back")

    def majority_dies(self, seconds: float) -> None:
        """The queue stands still, and goes on when they are back."""
        leader = self.servers.leader()
        names = leader, next(name for name in NODES if name != leader)
        self._says(f"SIGKILL to {names[0]} and {names[1]}, for {seconds:g} s")
        for name in names:
            self.servers.run("kill", name)
        time.sleep(seconds)
        self._says(f"{self.effects()} effects; both nodes are started again")
        self.servers.run("start", *names)
        self._says("both nodes are back")

    def supervisor_dies(self) -> None:
        daemon = self.daemons["one"]
        self._says("SIGKILL to the supervisor of daemon one")
        daemon.kill(daemon.pid, signal.SIGKILL)
        daemon.start()
        self._says("daemon one is started again")

    def host_freezes(self, seconds: float) -> None:
        daemon = self.daemons["two"]
        self._says(f"SIGSTOP to all processes of daemon two, for {seconds:g} s")
        self._signal(daemon, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self._signal(daemon, signal.SIGCONT)
        self._says("daemon two goes on")

    def until(self, effects: int) -> None:
        """Wait for so many, or until nothing comes any more."""
        last, since, shown = -1, time.monotonic(), 0.0
        while last < effects or (effects == self.feeder.total and self.feeder.is_alive()):
            now, found = time.monotonic(), self.effects()
            if found != last or self.feeder.failed:
                last, since = found, now
            if now - since > PATIENCE or self.feeder.failed:
                return
            if now - shown > 5:
                shown = now
                self._says(f"{found} effects")
            time.sleep(0.2)

    def settled(self) -> None:
        """Wait until no message is in the queue, nor with a consumer."""
        limit = time.monotonic() + PATIENCE
        while self.servers.depths().get(QUEUE, 1) and time.monotonic() < limit:
            time.sleep(0.5)

    @staticmethod
    def _signal(daemon: DaemonProcess, number: int) -> None:
        for pid in daemon.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _says(self, text: str) -> None:
        say(f"{time.strftime('%H:%M:%S')}  {self.feeder.confirmed:>7} published  {text}")


def report(show: Show, total: int, duplicates: int, dead: int) -> bool:
    """The table; whether everything is as it should be."""
    rows = query(show.store, "SELECT number, host, handled_at FROM booking")
    found = {row[0] for row in rows}
    times = sorted(float(row[2]) for row in rows)
    silence = max((later - earlier for earlier, later in pairwise(times)), default=0.0)
    lost, doubled, depths = total - len(found), len(rows) - len(found), show.servers.depths()
    left = sum(count for name, count in depths.items() if name.startswith(QUEUE)) if QUEUE in depths else None
    table = [
        ("published (confirmed)", show.feeder.confirmed),
        ("published again, unconfirmed", show.feeder.repeated),
        ("effects", len(rows)),
        *((f"  of them by daemon {host}", sum(row[1] == host for row in rows)) for host in HOSTS),
        ("deliveries known as repeated *", duplicates),
        ("lost", lost),
        ("doubled", doubled),
        ("dead letters", dead),
        ("left in queues", "not known" if left is None else left),
        ("longest silence **", f"{silence:.2f} s"),
        ("first to last effect", f"{times[-1] - times[0]:.1f} s" if times else "-"),
    ]
    say()
    for name, value in table:
        say(f"  {name:<32}{value:>12}")
    for reason, count in show.feeder.reasons.items():
        say(f"  not confirmed at first: {count} times: {reason}")
    say("\n  *  since each daemon's last start   **  between two handled messages, of all daemons together")
    return show.feeder.confirmed == total and left == 0 and not (lost or doubled or dead)


def run(servers: Servers, folder: Path, store: str, given: argparse.Namespace) -> bool:
    total: int = given.messages
    say(f"Three nodes {servers.cluster.rpartition('@')[2]}, MariaDB, three daemons in {folder}")
    servers.forget()
    parameters = f"?queue={QUEUE}&identity=message_id&heartbeat=2"
    daemons = {host: lay_out(folder / host, host, servers.nearest(number) + parameters, store) for number, host in enumerate(HOSTS)}
    with ExitStack() as stack:
        for daemon in daemons.values():
            stack.enter_context(daemon)
            daemon.start()
        feeder = stack.enter_context(Feeder(servers.cluster, QUEUE, total, total / given.seconds))
        show = Show(servers, daemons, store, feeder)
        show.until(total // 20)
        with show.node_dies():
            show.supervisor_dies()
            show.host_freezes(given.frozen)
        if given.majority:
            show.majority_dies(given.majority)
        show.until(total)
        show.settled()
        jobs = [daemon.status()["jobs"][0] for daemon in daemons.values()]
        stopped = [daemon.run("stop").returncode == 0 for daemon in daemons.values()]
        good = report(show, total, sum(job["duplicates"] for job in jobs), max(job["dead"] for job in jobs))
    return good and all(stopped)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="that publishing takes, if the cluster is that fast (default: 20)")
    parser.add_argument("--frozen", type=float, default=8.0, metavar="SECONDS", help="that one daemon is stopped (default: 8)")
    parser.add_argument(
        "--majority", type=float, default=0.0, metavar="SECONDS", help="that two nodes of three are dead together (default: none are)"
    )
    parser.add_argument("--services", type=Path, metavar="D", help="where ./scripts/services has servers, or shall have them")
    given = parser.parse_args(words)
    folder = Path(tempfile.mkdtemp(prefix="holdfast-cluster-"))
    servers = Servers(given.services or folder / "services")
    folder.chmod(0o755)
    with servers.running(), Databases(servers.urls.__getitem__, folder) as databases:
        good = run(servers, folder, databases.make("mariadb"), given)
    if not good:
        say(f"\nNOT as it should be. The daemons' directories, with their logs, are kept in {folder}")
        return 1
    shutil.rmtree(folder)
    say("\nNothing lost, nothing doubled.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
