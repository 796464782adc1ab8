"""Faults of a broker while messages keep coming; the oracle: every confirmed message has one effect, nothing else has any."""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pika
import sqlalchemy
from broker_kit import Broker, Stage, noted

from holdfast.testing import Proxy, eventually
from holdfast.testing.databases import Databases, query
from servers_kit import Services

SERVERS = ("mariadb", "postgresql")
ACK = b"\x00\x3c\x00\x50"  # basic.ack


@dataclass
class Result:
    """A line of the table."""

    fault: str
    server: str
    messages: int = 0
    lost: int = 0
    doubled: int = 0
    strangers: int = 0
    dead: int = 0
    left: int = 0
    note: str = ""

    @property
    def good(self) -> bool:
        return bool(self.messages) and not (self.lost or self.doubled or self.strangers or self.dead or self.left)


def table(results: list[Result]) -> str:
    """All lines, for people."""
    lines = [f"{'fault':18}{'server':12}{'messages':>9}{'lost':>6}{'doubled':>9}{'strangers':>11}{'dead':>6}{'left':>6}  "]
    for r in results:
        line = f"{r.fault:18}{r.server:12}{r.messages:9}{r.lost:6}{r.doubled:9}{r.strangers:11}{r.dead:6}{r.left:6}  {r.note}"
        lines.append(line if r.good else f"{line}  NOT GOOD")
    return "\n".join(lines)


class Source(threading.Thread):
    """Publishes until stopped, straight to the broker; what is not confirmed is sent again with the same identity."""

    def __init__(self, broker: Broker, queue: str) -> None:
        super().__init__(daemon=True)
        self.ids: list[str] = []
        self._broker, self._queue = broker, queue
        self._over = threading.Event()

    def __enter__(self) -> Source:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        while not self._over.wait(0.02):
            with suppress(pika.exceptions.AMQPError, OSError), self._broker.channel() as channel:
                channel.confirm_delivery()
                while not self._over.is_set():
                    name = f"m{len(self.ids)}"
                    channel.basic_publish("", self._queue, b"work", pika.BasicProperties(delivery_mode=2, message_id=name), mandatory=True)
                    self.ids.append(name)


class Trial(Stage):
    """A daemon between two proxies: one before the broker, one before its database."""

    def __init__(self, folder: Path, broker: Broker, services: Services, kind: str, databases: Databases, heartbeat: int) -> None:
        self.kind, self.services, self.url, self.note = kind, services, databases.make(kind), ""
        place = sqlalchemy.make_url(self.url)
        assert place.host
        assert place.port
        self.base = Proxy(place.host, place.port)
        plain = {"sslmode": "disable"} if kind == "postgresql" else {"ssl": "false"}
        store = place.set(port=self.base.port).update_query_dict(plain).render_as_string(hide_password=False)
        super().__init__(folder, broker, store=store, toml="[jobs.Add]\nprocesses = 2\ncrash_limit = 1000\n", heartbeat=heartbeat)

    def close(self) -> None:
        super().close()
        self.base.close()

    def effects(self) -> Counter[str]:
        return Counter({name: int(volume) for name, volume in query(self.url, "SELECT name, sum(volume) FROM account GROUP BY name")})

    def more(self, count: int) -> None:
        """Until so many more have had their effect."""
        wanted = len(self.effects()) + count
        eventually(lambda: len(self.effects()) >= wanted, f"{count} effects more", 90)

    def judge(self, fault: str, ids: set[str]) -> Result:
        """The oracle, when all is quiet."""
        with suppress(AssertionError):
            eventually(lambda: ids <= set(self.effects()), "all have their effects", 90)
        assert self.daemon.run("stop").returncode == 0
        found = self.effects()
        return Result(
            fault,
            self.kind,
            len(ids),
            lost=len(ids - set(found)),
            doubled=sum(number > 1 for number in found.values()),
            strangers=len(set(found) - ids),
            dead=int(query(self.url, "SELECT count(*) FROM holdfast_dead")[0][0]),
            left=self.broker.depth(self.queue),
            note=self.note,
        )


Harm = Callable[[Trial, int], None]
_turns = itertools.cycle([True, False])


def _struck(proxy: Proxy, word: bytes) -> None:
    before = proxy.strikes
    proxy.cut_at(word, delivered=next(_turns))
    eventually(lambda: proxy.strikes > before, "it was struck", 90)


def _cut_ack(one: Trial, rounds: int) -> None:
    """Between the commit and the acknowledgement, in turn before the broker gets it, and after."""
    for _ in range(rounds * 5):
        _struck(one.proxy, ACK)
        one.more(10)


def _cut_commit(one: Trial, rounds: int) -> None:
    """The other link: whether the database has committed is not known, and the messages are still out."""
    for _ in range(rounds * 5):
        _struck(one.base, b"COMMIT")
        one.more(10)


def _cut(one: Trial, rounds: int) -> None:
    """Descriptors, threads and memory of a worker stay as they were, and it stays."""
    worker = one.daemon.workers()[0]["pid"]
    before, memory = _open(worker), rss_mib(worker)
    for _ in range(rounds * 20):
        one.proxy.cut()
        one.more(5)
    eventually(lambda: all(now <= then for now, then in zip(_open(worker), before, strict=True)), "it has no more open than before", 30)
    one.note = f"{rounds * 20} cuts; {before[0]} descriptors, {before[1]} threads; {memory:.1f} -> {rss_mib(worker):.1f} MiB"


def _open(pid: int) -> list[int]:
    """Descriptors and threads."""
    return [len(os.listdir(f"/proc/{pid}/{what}")) for what in ("fd", "task")]


def rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _black_hole(one: Trial, rounds: int) -> None:
    """Nothing comes through, and nobody says so."""
    for _ in range(rounds):
        before = one.daemon.log().count("broker.away")
        one.proxy.stall()
        eventually(lambda before=before: one.daemon.log().count("broker.away") > before, "the heartbeats are missed", 60)
        one.proxy.heal()
        one.more(50)


def _kill_broker(one: Trial, rounds: int) -> None:
    for _ in range(rounds):
        eventually(lambda: noted(one.services, one.queue), "the broker has written down that there is such a queue", 60)
        one.services.run("kill", "rabbitmq")
        one.services.run("start", "rabbitmq")
        one.more(50)


def _stop_broker(one: Trial, rounds: int) -> None:
    for _ in range(rounds):
        eventually(lambda: noted(one.services, one.queue), "the broker has written down that there is such a queue", 60)
        one.services.end_gently("rabbitmq")
        one.services.run("start", "rabbitmq")
        one.more(50)


def _kill_workers(one: Trial, rounds: int) -> None:
    for _ in range(rounds * 3):
        for worker in one.daemon.workers()[:1]:
            with suppress(AssertionError, ProcessLookupError):
                one.daemon.kill(worker["pid"], signal.SIGKILL)
        one.more(20)


def _reload(one: Trial, rounds: int) -> None:
    for _ in range(rounds * 2):
        assert one.daemon.run("reload").returncode == 0
        one.more(20)


def _stop(one: Trial, rounds: int) -> None:
    """What was not begun goes back; what was begun is acknowledged."""
    for _ in range(rounds * 2):
        assert one.daemon.run("stop").returncode == 0
        one.daemon.start()
        one.more(20)


SCENARIOS: dict[str, Harm] = {
    "cut-ack": _cut_ack,
    "cut-commit": _cut_commit,
    "cut": _cut,
    "black-hole": _black_hole,
    "kill-broker": _kill_broker,
    "stop-broker": _stop_broker,
    "kill-workers": _kill_workers,
    "reload": _reload,
    "stop": _stop,
}


def run(fault: str, kind: str, services: Services, databases: Databases, rounds: int = 1) -> Result:
    """One scenario on one database server."""
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        one = Trial(Path(name), Broker(services.url("rabbitmq")), services, kind, databases, 2 if fault == "black-hole" else 600)
        try:
            one.daemon.start()
            with Source(one.broker, one.queue) as source:
                one.more(20)
                SCENARIOS[fault](one, rounds)
            return one.judge(fault, set(source.ids))
        finally:
            one.close()
