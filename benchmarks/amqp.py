"""From a RabbitMQ queue into MariaDB, acknowledged after the commit: ours beside hand-written pika batches and the frameworks.

    .venv/bin/python benchmarks/amqp.py [--messages 5000] [--runs 3] [--threads 1] [--venv DIR] [--only NAME ...]

The queue is filled first; then the workers start. The rate is taken from the first row that is done to the last, so start-up is not in
it. Whoever works in batches gets ten times as many messages. Every round runs every contestant, one after the other, on the same two
servers and the same table; the rows are checked in every trial. The work is the fee daemon's: INSERT with status 'N', then UPDATE to 'Y'.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rivals

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pika", "celery", "dramatiq[rabbitmq]", "faststream[rabbit,cli]", "taskiq", "taskiq-aio-pika", "pymysql", "setuptools<81")
TABLE = "CREATE TABLE fee (ticket BIGINT PRIMARY KEY, login VARCHAR(32), volume DECIMAL(18,2), status CHAR(1)) ENGINE=InnoDB"
ARTICLE_INSERT = "INSERT INTO fee (ticket, login, volume, status) VALUES (%s, %s, %s, 'N')"

WORK = f'''
import os, threading
import pymysql
from urllib.parse import urlsplit

AMQP, DATABASE = os.environ["AMQP"], urlsplit(os.environ["DATABASE"])
_mine = threading.local()

def connect(autocommit=True):
    return pymysql.connect(host=DATABASE.hostname, port=DATABASE.port, user=DATABASE.username, password=DATABASE.password,
                           database=DATABASE.path[1:], autocommit=autocommit)

def work(text):
    """One message: two statements, each committed, on this thread's own connection."""
    if getattr(_mine, "pid", 0) != os.getpid():
        _mine.connection, _mine.pid = connect(), os.getpid()
    ticket, login, volume = text.split(",")
    with _mine.connection.cursor() as cursor:
        cursor.execute("{ARTICLE_INSERT}", (ticket, login, volume))
        cursor.execute("UPDATE fee SET status = 'Y' WHERE ticket = %s AND status = 'N'", (ticket,))
'''
BY_HAND = """
import os, signal, sys
import pika, pymysql
from work import AMQP, connect

BATCH = 500
database = connect(autocommit=False)
cursor = database.cursor()
cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
connection = pika.BlockingConnection(pika.URLParameters(AMQP))
channel = connection.channel()
channel.basic_qos(prefetch_count=2 * BATCH)
waiting = []

def flush():
    rows = [(*body.decode().split(","), "N") for _tag, body in waiting]
    while True:
        try:
            cursor.executemany("INSERT INTO fee (ticket, login, volume, status) VALUES (%s, %s, %s, %s)", rows)
            marks = ", ".join(["%s"] * len(rows))
            cursor.execute(f"UPDATE fee SET status = 'Y' WHERE status = 'N' AND ticket IN ({marks})", [row[0] for row in rows])
            database.commit()
            break
        except pymysql.err.OperationalError as error:
            database.rollback()
            if error.args[0] not in (1205, 1213):
                raise
    channel.basic_ack(waiting[-1][0], multiple=True)
    waiting.clear()

def take(_channel, method, _properties, body):
    waiting.append((method.delivery_tag, body))
    if len(waiting) >= BATCH:
        flush()

channel.basic_consume("by-hand", take)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    before = len(waiting)
    connection.process_data_events(time_limit=0.02)
    if waiting and len(waiting) == before:
        flush()
"""
CELERY = """
import sys
from celery import Celery
from work import AMQP, work

app = Celery("fee", broker=AMQP)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=4, task_ignore_result=True, task_default_queue="celery-fee",
                broker_connection_retry_on_startup=True)

@app.task(name="fee")
def fee(text):
    work(text)

if __name__ == "__main__":
    with app.producer_or_acquire() as producer:
        for line in sys.stdin:
            fee.apply_async((line.strip(),), producer=producer)
"""
DRAMATIQ = """
import sys
import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from work import AMQP, work

dramatiq.set_broker(RabbitmqBroker(url=AMQP))

@dramatiq.actor(queue_name="dramatiq-fee")
def fee(text):
    work(text)

if __name__ == "__main__":
    for line in sys.stdin:
        fee.send(line.strip())
"""
FASTSTREAM = """
import asyncio, sys
from faststream import FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue
from work import AMQP, work

broker = RabbitBroker(AMQP, default_channel=Channel(prefetch_count=8))
app = FastStream(broker)
QUEUE = RabbitQueue("faststream-fee", durable=True)

@broker.subscriber(QUEUE)
def fee(text: str) -> None:
    work(text)

async def fill():
    await broker.connect()
    await broker.declare_queue(QUEUE)
    for line in sys.stdin:
        await broker.publish(line.strip(), queue=QUEUE, persist=True)
    await broker.stop()

if __name__ == "__main__":
    asyncio.run(fill())
"""
TASKIQ = """
import asyncio, sys
from taskiq_aio_pika import AioPikaBroker
from work import AMQP, work

broker = AioPikaBroker(AMQP, qos=8)

@broker.task(task_name="fee")
def fee(text: str) -> None:
    work(text)

async def fill():
    await broker.startup()
    for line in sys.stdin:
        await fee.kiq(line.strip())
    await broker.shutdown()

if __name__ == "__main__":
    asyncio.run(fill())
"""
OURS = """
import os
from holdfast import Daemon, Job

class Fee(Job):
    source = os.environ["AMQP"] + "?queue=holdfast-fee&identity=message_id"
    store = os.environ["DATABASE"] + "?ssl=false"
    processes = 2
    threads = int(os.environ["THREADS"])
    inbox = {inbox}

    {work}

if __name__ == "__main__":
    Daemon(Fee).main()
"""
HANDLE = """def handle(self, message, db):
        ticket, login, volume = message.text.split(",")
        db.execute("INSERT INTO fee (ticket, login, volume, status) VALUES (:t, :l, :v, 'N')", {"t": ticket, "l": login, "v": volume})
        db.execute("UPDATE fee SET status = 'Y' WHERE ticket = :t AND status = 'N'", {"t": ticket})"""
HANDLE_BATCH = """def handle_batch(self, messages, db):
        rows = [dict(zip("tlv", message.text.split(","))) for message in messages]
        db.execute("INSERT INTO fee (ticket, login, volume, status) VALUES (:t, :l, :v, 'N')", rows)
        db.execute("UPDATE fee SET status = 'Y' WHERE status = 'N' AND ticket IN :tickets", {"tickets": [row["t"] for row in rows]})"""


@dataclass(frozen=True)
class Contestant:
    """Its queue, how the queue is filled, how its workers are started, and how many messages it gets for each of the others' one."""

    queue: str
    program: str
    command: Callable[[Path], list[str]]
    copies: int = 1
    share: int = 1
    fills: bool = False  # by its own program, in its own form
    ours: bool = False


def _python(*words: str) -> Callable[[Path], list[str]]:
    return lambda _folder: [sys.executable, *words]


def _celery(_folder: Path) -> list[str]:
    return [
        rivals.binary("celery"),
        "-A",
        "app",
        "worker",
        "-P",
        "prefork",
        "-c",
        "2",
        "-l",
        "ERROR",
        "--without-gossip",
        "--without-mingle",
    ]


def _taskiq(_folder: Path) -> list[str]:
    words = [
        "worker",
        "app:broker",
        "--workers",
        "2",
        "--max-threadpool-threads",
        "8",
        "--ack-type",
        "when_executed",
        "--log-level",
        "ERROR",
    ]
    return [rivals.binary("taskiq"), *words]


def _dramatiq(_folder: Path) -> list[str]:
    return [rivals.binary("dramatiq"), "app", "-p", "2", "-t", "8"]


def _faststream(_folder: Path) -> list[str]:
    return [rivals.binary("faststream"), "run", "app:app", "--workers", "2"]


def _ours(inbox: bool, work: str) -> Contestant:
    return Contestant("holdfast-fee", OURS.format(inbox=inbox, work=work), lambda _folder: [], share=10, ours=True)


CONTESTANTS = {
    "pika by hand, batches of 500": Contestant("by-hand", BY_HAND, _python("app.py"), copies=2, share=10),
    "Celery, prefork 2": Contestant("celery-fee", CELERY, _celery, fills=True),
    "Dramatiq, 2 x 8": Contestant("dramatiq-fee", DRAMATIQ, _dramatiq, fills=True),
    "FastStream, 2 x 8": Contestant("faststream-fee", FASTSTREAM, _faststream, fills=True),
    "Taskiq, 2 x 8": Contestant("taskiq", TASKIQ, _taskiq, fills=True),
    "ours, handle, inbox": _ours(True, HANDLE),
    "ours, handle_batch, inbox": _ours(True, HANDLE_BATCH),
    "ours, handle_batch, no inbox": _ours(False, HANDLE_BATCH),
}


@contextlib.contextmanager
def servers() -> Iterator[dict[str, Any]]:
    """A private broker and a private database with a flush at every commit."""
    script = str(ROOT / "scripts" / "services")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        os.chmod(name, 0o755)
        words = [sys.executable, script, "start", "mariadb", "rabbitmq", "--directory", name, "--json"]
        try:
            yield json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        finally:
            subprocess.run([sys.executable, script, "stop", "mariadb", "rabbitmq", "--directory", name], check=True, capture_output=True)


def text(ticket: int) -> str:
    """One message."""
    return f"{ticket},{10_000 + ticket % 997},{ticket % 5000 / 100 + 0.01:.2f}"


class Table:
    """The rows, and how many are done."""

    def __init__(self, url: str) -> None:
        from holdfast.testing.databases import query

        self._url, self._query = url, query

    def clear(self) -> None:
        self._query(self._url, "DROP TABLE IF EXISTS fee", TABLE)
        for name in ("holdfast_inbox", "holdfast_batch"):
            self._query(self._url, f"DROP TABLE IF EXISTS {name}")

    def done(self) -> int:
        return int(self._query(self._url, "SELECT count(*) FROM fee WHERE status = 'Y'")[0][0])

    def updates(self) -> int:
        """As the server counts them, which costs less than looking."""
        return int(self._query(self._url, "SHOW GLOBAL STATUS LIKE 'Handler_update'")[0][1])


def fill(contestant: Contestant, folder: Path, amqp: str, environ: dict[str, str], count: int) -> None:
    """All messages into the queue, durable and persistent, before anybody works."""
    import pika

    tickets = range(1, count + 1)
    if contestant.fills:
        lines = "".join(f"{text(ticket)}\n" for ticket in tickets)
        subprocess.run([sys.executable, "app.py"], cwd=folder, env=environ, input=lines, text=True, check=True, capture_output=True)
        return
    connection = pika.BlockingConnection(pika.URLParameters(amqp))
    channel = connection.channel()
    if not contestant.ours:
        channel.queue_declare(contestant.queue, durable=True)
    for ticket in tickets:
        how = pika.BasicProperties(delivery_mode=2, message_id=str(ticket))
        channel.basic_publish("", contestant.queue, text(ticket).encode(), how)
    connection.close()


def forget(queue: str, amqp: str) -> None:
    """What the last trial has left."""
    import pika

    connection = pika.BlockingConnection(pika.URLParameters(amqp))
    channel = connection.channel()
    for name in (queue, f"{queue}.dropped", f"{queue}.DQ", f"{queue}.XQ", f"{queue}.delay", f"{queue}.dead_letter"):
        channel.queue_delete(name)
    connection.close()


def trial(name: str, facts: dict[str, Any], count: int, threads: int) -> dict[str, float]:
    """One contestant: messages a second, CPU seconds per 10 000 messages of its processes and of both servers, memory."""
    contestant, amqp = CONTESTANTS[name], facts["rabbitmq"]["url"]
    count *= contestant.share
    table = Table(facts["mariadb"]["url"])
    forget(contestant.queue, amqp)
    table.clear()
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as place:
        folder = Path(place)
        (folder / "work.py").write_text(WORK)
        (folder / "app.py").write_text(contestant.program)
        environ = {
            **os.environ,
            "AMQP": amqp,
            "DATABASE": facts["mariadb"]["url"],
            "PYTHONPATH": place,
            "READY": place,
            "THREADS": str(threads),
        }
        with contextlib.ExitStack() as stack:
            start = (_prepare_ours if contestant.ours else _prepare_peers)(stack, contestant, folder, environ)
            fill(contestant, folder, amqp, environ, count)
            base = table.updates()
            pids = start()
            return _measure(table, base, count, pids, [facts[one]["pid"] for one in ("mariadb", "rabbitmq")])


Pids = Callable[[], list[int]]


def _prepare_peers(stack: contextlib.ExitStack, contestant: Contestant, folder: Path, environ: dict[str, str]) -> Callable[[], Pids]:
    """What starts the peer's processes."""
    output = stack.enter_context((folder / "output").open("ab"))
    how: Any = {"cwd": folder, "env": environ, "stdout": output, "stderr": output, "stdin": subprocess.DEVNULL, "start_new_session": True}

    def start() -> Pids:
        found = [subprocess.Popen(contestant.command(folder), **how) for _ in range(contestant.copies)]
        for peer in found:
            stack.callback(_end, peer)
        return lambda: [one for peer in found for one in (peer.pid, *rivals.descendants(peer.pid))]

    return start


def _end(peer: subprocess.Popen[bytes]) -> None:
    family = [peer.pid, *rivals.descendants(peer.pid)]
    peer.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        peer.wait(5)
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    peer.wait()


def _prepare_ours(stack: contextlib.ExitStack, contestant: Contestant, folder: Path, environ: dict[str, str]) -> Callable[[], Pids]:
    """What starts the daemon. It was started once so that the queue is declared, and stopped: as the others, it shall find a full queue."""
    from holdfast.testing import DaemonProcess

    daemon = stack.enter_context(
        DaemonProcess(folder, contestant.program, environ={k: environ[k] for k in ("AMQP", "DATABASE", "THREADS")})
    )
    daemon.start()
    assert daemon.run("stop").returncode == 0

    def start() -> Pids:
        daemon.start()
        return lambda: list(daemon.processes())

    return start


def _measure(table: Table, base: int, count: int, pids: Pids, servers: list[int]) -> dict[str, float]:
    limit = time.monotonic() + 300
    while (first := table.updates() - base) <= 0:
        assert time.monotonic() < limit, "nothing was done in 300 s"
        time.sleep(0.005)
    began, mine, theirs = time.perf_counter(), _cpu(pids()), _cpu(servers)
    while table.updates() - base < count:
        assert time.monotonic() < limit, f"{table.done()} of {count} rows after 300 s"
        time.sleep(0.02)
    took = time.perf_counter() - began
    each = 1e4 / (count - first)
    result = {
        "rate": (count - first) / took,
        "cpu": (_cpu(pids()) - mine) * each,
        "servers": (_cpu(servers) - theirs) * each,
        "pss": rivals.pss_mib(pids()),
    }
    while table.done() < count:
        assert time.monotonic() < limit, f"{table.done()} of {count} rows"
        time.sleep(0.05)
    return result


def _cpu(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main() -> None:
    """Run the rounds, print the table."""
    rivals.PACKAGES = PACKAGES
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each of our two processes")
    parser.add_argument("--only", action="append", choices=list(CONTESTANTS), help="a contestant; may be repeated; default: all")
    given = rivals.in_one_environment(parser)
    names = given.only or list(CONTESTANTS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with servers() as facts:
        for number in range(given.runs):
            for name in names:
                print(f"round {number + 1}: {name}", file=sys.stderr)
                found[name].append(trial(name, facts, given.messages, given.threads))
    fastest = max(
        (statistics.median(one["rate"] for one in found[name]) for name in names if CONTESTANTS[name].fills), default=float("nan")
    )
    print(f"{'':32}{'messages/s':>11}{'x framework':>13}{'CPU s/10k':>11}{'servers s/10k':>15}{'PSS MiB':>9}   trials")
    for name, trials in found.items():
        middle = {key: statistics.median(one[key] for one in trials) for key in trials[0]}
        rates = ", ".join(f"{one['rate']:.0f}" for one in trials)
        row = f"{name:32}{middle['rate']:11.0f}{middle['rate'] / fastest:13.2f}{middle['cpu']:11.2f}{middle['servers']:15.2f}"
        print(f"{row}{middle['pss']:9.0f}   ({rates})")


if __name__ == "__main__":
    main()
