"""The part of fee_zmq.py for database servers: ours beside the port of the article, in the same rounds, on the same table."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from holdfast.stores import open_store
from holdfast.testing import DaemonProcess, eventually, free_port
from holdfast.testing.databases import query

HERE = Path(__file__).resolve().parent
ARTICLE_THREADS = 100
Running = tuple[str, list[int]]  # endpoint and PIDs
TITLES = {"reqs": "64 lock-step clients", "dealer": "one client, 1000 in flight"}
TABLE = "CREATE TABLE IF NOT EXISTS fee (ticket BIGINT PRIMARY KEY, login VARCHAR(32), volume NUMERIC(18, 2), status CHAR(1))"
FILL = {
    "mariadb": """INSERT INTO holdfast_inbox (scope, id, digest, outcome, seen_at)
        SELECT 'Fee', UNHEX(LEFT(SHA1(seq), 40)), REPEAT('d', 16), 0, UNIX_TIMESTAMP() FROM seq_{low}_to_{high} ORDER BY 2""",
    "postgresql": """INSERT INTO holdfast_inbox (scope, id, digest, outcome, seen_at)
        SELECT 'Fee', decode(left(encode(sha256(g::text::bytea), 'hex'), 40), 'hex'), decode(repeat('64', 16), 'hex'), 0,
        extract(epoch FROM now()) FROM generate_series({low}, {high}) g ORDER BY 2""",
}


@contextmanager
def server(kind: str, inbox: int) -> Iterator[str]:
    """A private server with so many rows in its inbox; its URL, without TLS, as the peers have it."""
    script = str(HERE.parent / "scripts" / "services")
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        words = [sys.executable, script, "start", kind, "--directory", name, "--json"]
        told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True, env=_roomy()).stdout)
        url = told[kind]["url"] + {"mariadb": "?ssl=false", "postgresql": "?sslmode=disable"}[kind]
        try:
            store = open_store(url, "Fee")
            store.install(TABLE, lambda _db: None)
            store.close()
            for low in range(1, inbox, 1_000_000):
                query(url.partition("?")[0], FILL[kind].format(low=low, high=min(low + 999_999, inbox)))
            if kind == "postgresql" and inbox:
                query(url, "VACUUM ANALYZE holdfast_inbox", "CHECKPOINT")
            yield url
        finally:
            subprocess.run([sys.executable, script, "stop", kind, "--directory", name], check=True, capture_output=True)


def cpu(pid: int) -> float:
    """User and system seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _roomy() -> dict[str, str]:
    return {**os.environ, "SERVICES_POOL": "2048M"}


def finished(url: str) -> int:
    """Rows in their final status."""
    return int(query(url.partition("?")[0], "SELECT count(*) FROM fee WHERE status = 'Y'")[0][0])


@contextmanager
def peer(what: str, kind: str, url: str) -> Iterator[Running]:
    """A running peer."""
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    words = [sys.executable, str(HERE / "article_port.py"), what, kind, url, endpoint, str(ARTICLE_THREADS)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield endpoint, [process.pid]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def ours(app: Callable[..., str], url: str, work: str, processes: int, threads: int) -> Iterator[Running]:
    """A running fee daemon of ours."""
    with tempfile.TemporaryDirectory() as name:
        port = free_port()
        more = f"    processes = {processes}\n    threads = {threads}\n"
        with DaemonProcess(Path(name), app(port=port, store=url, work=work, more=more)) as daemon:
            daemon.start()
            yield f"tcp://127.0.0.1:{port}", list(daemon.processes())


def rate(url: str, endpoint: str, script: str, client: str, messages: int) -> float:
    """Messages a second, from the first sent to the last in its final status."""
    began = time.perf_counter()
    subprocess.run([sys.executable, script, "--load", client, endpoint, str(messages)], check=True)
    eventually(lambda: finished(url) == messages, "every row is there", 120)
    return messages / (time.perf_counter() - began)


def lock_step(endpoint: str, messages: int) -> list[float]:
    """Answer times of one client that waits for each, in milliseconds."""
    sock = zmq.Context().socket(zmq.REQ)
    sock.connect(endpoint)
    times = []
    for number in range(messages):
        began = time.perf_counter()
        sock.send(b"%d,10001,1.50" % number)
        assert sock.recv() == b"TRUE"
        times.append((time.perf_counter() - began) * 1e3)
    return times[messages // 10 :]


def run(kind: str, app: Callable[..., str], script: str, given: Any) -> None:
    """All rounds on one server with each client, and the tables."""
    with server(kind, given.inbox) as url:
        size = {"processes": given.processes, "threads": given.threads}
        cases: dict[str, Callable[[], Any]] = {
            "port of the article": lambda: peer("article", kind, url),
            "ours, handle": lambda: ours(app, url, "handle", **size),
            "ours, handle_batch": lambda: ours(app, url, "handle_batch", **size),
        }
        print(f"\n{kind}, {given.inbox} rows in the inbox, cleaning on, flush at every commit", flush=True)
        for client in given.client or TITLES:
            _compare(f"{kind}, {client}", cases, url, script, client, given)
        alone = {"bare ROUTER, one commit": lambda: peer("bare", kind, url), "ours, handle": cases["ours, handle"]}
        for name, case in alone.items():
            clear(url)
            with case() as (endpoint, _pids):
                times = sorted(lock_step(endpoint, 1000))
            print(f"  one lock-step client, {name:26} p50 {statistics.median(times):6.2f} ms   p99 {times[int(len(times) * 0.99)]:6.2f} ms")


def _compare(what: str, cases: dict[str, Callable[[], Any]], url: str, script: str, client: str, given: Any) -> None:
    """Every case in each round, one after the other; medians."""
    rates: dict[str, list[float]] = {name: [] for name in cases}
    micros: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(given.runs):
        for name, case in cases.items():
            print(f"{what}, round {number + 1}: {name}", file=sys.stderr)
            clear(url)
            with case() as (endpoint, pids):
                before = sum(map(cpu, pids))
                rates[name].append(rate(url, endpoint, script, client, given.messages))
                micros[name].append((sum(map(cpu, pids)) - before) / given.messages * 1e6)
    print(f"  {TITLES[client]}; ours with {given.processes} processes, {given.threads} threads each")
    base = statistics.median(rates["port of the article"])
    for name, found in rates.items():
        middle = statistics.median(found)
        each = f"{statistics.median(micros[name]):6.0f} µs of CPU each"
        trials = ", ".join(f"{one:.0f}" for one in found)
        print(f"  {name:24}{middle:9.0f} messages/s {middle / base:7.2f}x {each}   ({trials})", flush=True)


def clear(url: str) -> None:
    """The tickets of the last trial are new ones in the next."""
    plain = url.partition("?")[0]
    query(plain, "TRUNCATE TABLE fee", "DELETE FROM holdfast_batch")
    drop_new(plain)


def drop_new(url: str) -> None:
    """Identities of earlier trials go, the fill stays: its digests are all alike."""
    other = "decode(repeat('64', 16), 'hex')" if url.startswith("postgresql") else "REPEAT('d', 16)"
    query(url, f"DELETE FROM holdfast_inbox WHERE digest <> {other}")
