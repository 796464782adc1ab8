"""A stop while a worker waits for the database: in COMMIT, while it connects, for a lock that another session holds (G7, G3, G4)."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import zmq

from holdfast.testing import DaemonProcess, Proxy, eventually, free_port
from holdfast.testing.databases import Databases, query

APP = """
import os, time
from holdfast import Job

class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "{store}"
    schema = '''CREATE TABLE IF NOT EXISTS account (name VARCHAR(60), volume INTEGER);
                CREATE TABLE IF NOT EXISTS gate (n INTEGER)'''
    threads = 1  # another one would look for dead letters now and then, with a COMMIT of its own
    timeout = "300s"  # nothing but the stop itself ends the wait

    def identity(self, message):
        return message.text

    def handle(self, message, db):
        db.execute("INSERT INTO account VALUES (:n, 1)", {{"n": message.text}})
        db.execute("UPDATE gate SET n = n + 1")
        if message.text == "held":
            open("{folder}/begun", "w").close()
            while not os.path.exists("{folder}/go"):
                time.sleep(0.005)
"""
_LOCK_WAITS = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
    "mariadb": "SELECT count(*) FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'",
}
SERVERS = tuple(_LOCK_WAITS)


class Stage:
    """A daemon whose way to the database can be stalled, in the foreground, so that its exit status is seen."""

    def __init__(self, kind: str, databases: Databases, folder: Path) -> None:
        self.kind, self.url = kind, databases.make(kind)
        place = sqlalchemy.make_url(self.url)
        assert place.host
        assert place.port
        self.proxy = Proxy(place.host, place.port)
        plain = {"sslmode": "disable"} if kind == "postgresql" else {"ssl": "false"}
        store = place.set(port=self.proxy.port).update_query_dict(plain).render_as_string(hide_password=False)
        self.port = free_port()
        self.begun, self.go = folder / "begun", folder / "go"
        self.daemon = DaemonProcess(folder, APP.format(port=self.port, store=store, folder=folder))

    @contextmanager
    def running(self, stop_timeout: str) -> Iterator[subprocess.Popen[str]]:
        """It runs, and has nothing left at the end, whatever happens."""
        self.daemon.environ["HOLDFAST_STOP_TIMEOUT"] = stop_timeout
        with subprocess.Popen(self.daemon.command("foreground"), env=self.daemon.environ, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                eventually(lambda: self.state() == "running", "it is ready")
                yield process
            finally:
                process.terminate()
                self.daemon.run("stop", "--now")
        assert self.daemon.processes() == {}

    def state(self) -> str:
        """Empty while it does not listen."""
        with suppress(OSError):
            return str(self.daemon.status()["state"])
        return ""

    @contextmanager
    def asking(self, name: str) -> Iterator[Any]:
        with zmq.Context() as context, context.socket(zmq.REQ) as sock:
            sock.linger = 0
            sock.connect(f"tcp://127.0.0.1:{self.port}")
            sock.send(name.encode())
            yield sock

    def effect(self, name: str) -> None:
        with self.asking(name) as sock:
            assert sock.poll(60_000), f"no answer to {name}"
            assert sock.recv() == b"TRUE"

    @contextmanager
    def blocked(self, where: str) -> Iterator[Any]:
        """A client whose message is with a worker that waits there; the way is free again behind it."""
        connections = self.proxy.accepted
        with _lock(self.url) if where == "lock" else _nothing():
            if where == "connect":
                self.proxy.stall()
                self.proxy.cut()
            with self.asking("held") as sock:
                if where.startswith("commit"):
                    eventually(self.begun.exists, "it is handled")
                    self.proxy.stall_at(b"COMMIT", delivered=where == "commit, done")
                self.go.touch()
                self.is_blocked(where, connections)
                yield sock
        self.proxy.heal()

    def is_blocked(self, where: str, connections: int) -> None:
        look: Callable[[], Any] = lambda: self.proxy.strikes  # noqa: E731
        if where == "lock":
            look = lambda: query(self.url, _LOCK_WAITS[self.kind])[0][0]  # noqa: E731
        elif where == "connect":
            look = lambda: self.proxy.accepted > connections  # noqa: E731
        eventually(look, f"a worker waits: {where}")


@contextmanager
def _lock(url: str) -> Iterator[None]:
    """Another session holds the row that every message wants."""
    address = sqlalchemy.make_url(url)
    driver = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}[address.drivername]
    engine = sqlalchemy.create_engine(address.set(drivername=driver))
    try:
        with engine.begin() as other:
            other.exec_driver_sql("UPDATE gate SET n = 0")
            yield
    finally:
        engine.dispose()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.fixture
def stage(kind: str, databases: Databases, tmp_path: Path) -> Iterator[Stage]:
    one = Stage(kind, databases, tmp_path)
    yield one
    one.proxy.close()


def _stop(stage: Stage, _process: subprocess.Popen[str]) -> None:
    assert stage.daemon.ask("stop")["exit"] == 0  # as the command does, which would kill one that takes too long


def _term(_stage: Stage, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


def _term_twice(stage: Stage, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    eventually(lambda: stage.state() == "stopping", "it stops")
    process.send_signal(signal.SIGTERM)


def _kill(stage: Stage, process: subprocess.Popen[str]) -> None:
    """Workers leave within stop_timeout when their supervisor is gone."""
    process.send_signal(signal.SIGKILL)
    eventually(lambda: not stage.daemon.processes(), "all have left")


WAYS = {"stop": _stop, "TERM": _term, "TERM TERM": _term_twice, "KILL": _kill}
CASES = [
    ("postgresql", "commit", "TERM"),
    ("mariadb", "commit, done", "TERM TERM"),
    ("postgresql", "commit", "KILL"),
    ("postgresql", "connect", "stop"),
    ("mariadb", "connect", "TERM"),
    ("postgresql", "lock", "TERM TERM"),
    ("mariadb", "lock", "TERM"),
]


@pytest.mark.parametrize(("kind", "where", "way"), CASES)
def test_a_stop_waits_for_no_database(stage: Stage, where: str, way: str) -> None:
    """It ends in time. Nobody was answered for what was not committed; who asks again after the next start has one effect."""
    with stage.running("600s" if way == "TERM TERM" else "1s") as process:
        query(stage.url, "INSERT INTO gate VALUES (0)")
        stage.effect("before")
        with stage.blocked(where) as client:
            WAYS[way](stage, process)
            assert process.wait(60) == (-signal.SIGKILL if way == "KILL" else 0)
            assert stage.daemon.processes() == {}
            assert not client.poll(0), "an answer without a commit"
    with stage.running("30s"):
        stage.effect("held")
        stage.effect("after")
    rows = query(stage.url, "SELECT name, count(*), sum(volume) FROM account GROUP BY name")
    assert {name: (number, int(volume)) for name, number, volume in rows} == dict.fromkeys(("before", "held", "after"), (1, 1))


@pytest.mark.parametrize("kind", ["mariadb"])
def test_a_commit_that_ends_while_it_stops_is_answered(stage: Stage) -> None:
    with stage.running("600s") as process:
        with stage.blocked("commit") as client:
            process.send_signal(signal.SIGTERM)
            eventually(lambda: stage.state() == "stopping", "it stops")
            stage.proxy.heal()
            assert client.poll(60_000), "no answer"
            assert client.recv() == b"TRUE"
        assert process.wait(60) == 0
    assert query(stage.url, "SELECT name, volume FROM account") == [("held", 1)]


@pytest.mark.parametrize(
    ("kind", "number", "said"),
    [("postgresql", signal.SIGTERM, "it was told to stop before it was ready"), ("mariadb", signal.SIGKILL, "killed by SIGKILL")],
)
def test_a_start_that_waits_for_a_database_can_be_ended(stage: Stage, number: int, said: str) -> None:
    """Nothing is left, though what makes the tables would wait for minutes."""
    stage.proxy.stall()
    stage.daemon.environ["HOLDFAST_START_TIMEOUT"] = "600s"
    with subprocess.Popen(stage.daemon.command("start"), env=stage.daemon.environ, stderr=subprocess.PIPE, text=True) as start:
        eventually(lambda: stage.proxy.accepted, "it connects")
        stage.daemon.kill(stage.daemon.pid, number)
        _, told = start.communicate(timeout=60)
    assert (start.returncode, said in told) == (1, True), told
    eventually(lambda: not stage.daemon.processes(), "all have left")
    stage.proxy.heal()
    with stage.running("30s"):
        stage.effect("a")
