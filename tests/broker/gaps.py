"""How long no message of a queue is handled while its daemon is reloaded, upgraded or scaled again and again, under a steady load."""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import pika
from broker_kit import Broker, Stage

from holdfast.testing import eventually
from holdfast.testing.builds import Builds
from holdfast.testing.databases import Databases, query
from servers_kit import Services

APP = """
import time
from holdfast import Daemon, Job

class Add(Job):
    source = "{source}"
    store = "{store}"
    schema = "CREATE TABLE IF NOT EXISTS account (name VARCHAR(60), at DOUBLE PRECISION, took DOUBLE PRECISION)"

    def handle(self, message, db):
        now = time.monotonic()
        db.execute("INSERT INTO account VALUES (:n, :at, :took)", {{"n": message.id, "at": now, "took": now - float(message.text)}})

if __name__ == "__main__":
    Daemon(Add).main()
"""
LONG = 0.1
BUILDS = ("1.0.1", "1.0.2")


class Steady(threading.Thread):
    """Publishes so many messages a second, each with the time at which it was sent; remembers its own longest pause."""

    def __init__(self, broker: Broker, queue: str, rate: float) -> None:
        super().__init__(daemon=True)
        self.sent = 0
        self.pause = 0.0
        self._broker, self._queue, self._rate = broker, queue, rate
        self._over = threading.Event()

    def __enter__(self) -> Steady:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        with self._broker.channel() as channel:
            began = last = time.monotonic()
            while not self._over.wait(0.002):
                now = time.monotonic()
                due = int((now - began) * self._rate) - self.sent
                for _ in range(due):
                    how = pika.BasicProperties(delivery_mode=2, message_id=f"m{self.sent}")
                    channel.basic_publish("", self._queue, repr(time.monotonic()).encode(), how)
                    self.sent += 1
                channel.connection.process_data_events(0)
                if due:
                    self.pause, last = max(self.pause, now - last), now
            channel.close()  # answered after everything before it was taken


@dataclass
class Result:
    """A line of the table."""

    change: str
    changes: int
    sent: int
    lost: int
    doubled: int
    silence: float  # the longest time in which a message waited and none was begun
    often: int  # times that it was over 100 ms
    source: float  # the longest time in which none was sent
    waits: list[float] = field(default_factory=list)  # of each message, from its sending to its handler, sorted


HEAD = (
    f"{'change':10}{'changes':>8}{'messages':>10}{'lost':>6}{'doubled':>9}{'silence ms':>12}{'>100 ms':>9}{'source ms':>11}"
    f"{'p50 ms':>9}{'p99 ms':>9}{'p99.9 ms':>10}{'worst ms':>10}"
)


def line(r: Result) -> str:
    """For people."""
    counts = f"{r.change:10}{r.changes:8}{r.sent:10}{r.lost:6}{r.doubled:9}{r.silence * 1e3:12.0f}{r.often:9}{r.source * 1e3:11.0f}"
    p50, p99, p999 = (r.waits[int((len(r.waits) - 1) * part)] * 1e3 for part in (0.5, 0.99, 0.999))
    return f"{counts}{p50:9.1f}{p99:9.1f}{p999:10.1f}{r.waits[-1] * 1e3:10.1f}"


Change = Callable[[Stage, int], int]


def _nothing(_stage: Stage, _number: int) -> int:
    return 0


def _reload(stage: Stage, _number: int) -> int:
    return int(stage.daemon.ask("reload")["exit"])


def _upgrade(stage: Stage, number: int) -> int:
    Builds(stage.daemon.folder / "builds").use(BUILDS[number % 2])
    return int(stage.daemon.ask("upgrade")["exit"])


def _scale(stage: Stage, number: int) -> int:
    return int(stage.daemon.ask("scale", job="Add", processes=1 + (number - 1) % 2)["exit"])


CHANGES: dict[str, Change] = {"nothing": _nothing, "reload": _reload, "upgrade": _upgrade, "scale": _scale}


def run(change: str, services: Services, store: str, given: argparse.Namespace) -> Result:
    """One kind of change, again and again."""
    seconds, every, rate = given.seconds, given.every, given.rate
    toml = f"probation = '0s'\n[jobs.Add]\nprocesses = {given.processes}\n"
    with tempfile.TemporaryDirectory(prefix="holdfast-gaps-") as name:
        stage = Stage(Path(name), Broker(services.url("rabbitmq")), store=store, app=APP, toml=toml)
        try:
            if change == "upgrade":
                builds = Builds(stage.daemon.folder / "builds")
                for version in BUILDS:
                    builds.make(version)
                builds.use(BUILDS[0])
                stage.daemon.python = builds.python
            stage.daemon.start()
            changes = 0
            with Steady(stage.broker, stage.queue, rate) as steady:
                end, clock = time.monotonic() + seconds, threading.Event()
                while time.monotonic() + every < end:
                    clock.wait(every)
                    changes += 1
                    assert CHANGES[change](stage, changes) == 0, stage.daemon.log()[-2000:]
                clock.wait(every)
            eventually(lambda: query(store, "SELECT count(DISTINCT name) FROM account")[0][0] >= steady.sent, "all are handled", 300)
            rows = query(store, "SELECT name, at, took FROM account ORDER BY at")
        finally:
            stage.close()
    names = {row[0] for row in rows}
    lengths = silences([(float(at), float(took)) for _name, at, took in rows])
    often = sum(length > LONG for length in lengths)
    waits = sorted(float(row[2]) for row in rows)
    lost, doubled = steady.sent - len(names), len(rows) - len(names)
    return Result(change, changes, steady.sent, lost, doubled, max(lengths), often, steady.pause, waits)


def silences(rows: list[tuple[float, float]]) -> list[float]:
    """Of messages in the order in which they were begun, each with its wait: how long none was begun while one waited."""
    found = []
    oldest = float("inf")  # sending of those that are still to come, from the last backwards
    for (before, _), (after, waited) in reversed([*itertools.pairwise(rows)]):
        oldest = min(oldest, after - waited)
        found.append(max(0.0, after - max(before, oldest)))
    return found


def main() -> int:
    """All that was asked for; 1 when something was lost or doubled."""
    parser = argparse.ArgumentParser(prog="./scripts/chaos gaps", description=__doc__)
    parser.add_argument("group", choices=["gaps"], help=argparse.SUPPRESS)
    parser.add_argument("--change", action="append", choices=[*CHANGES], help="may be repeated; default: all")
    parser.add_argument("--server", choices=("sqlite", "mariadb", "postgresql"), default="mariadb")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two changes")
    parser.add_argument("--rate", type=float, default=700.0, help="messages a second")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = []
    with tempfile.TemporaryDirectory(prefix="holdfast-gaps-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        services = Services(folder)
        try:
            with Databases(services.url, folder) as databases:
                print(HEAD)
                for change in given.change or CHANGES:
                    results.append(run(change, services, databases.make(given.server), given))
                    print(line(results[-1]), flush=True)
        finally:
            services.stop()
    return int(any(result.lost or result.doubled for result in results))


if __name__ == "__main__":
    sys.exit(main())
