"""Faults of databases, each while clients keep sending; see `chaos_kit` for the oracle."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy
import zmq
from chaos_kit import Result, Trial, every, trial

from holdfast.model.crash_loop import BUDGET
from holdfast.testing import eventually
from holdfast.testing.crowd import Crowd
from holdfast.testing.databases import Databases, query

SERVERS = ("mariadb", "postgresql")
Harm = Callable[[Trial, Crowd, int], None]


def repeated(gap: float, harm: Callable[[Trial], None]) -> Harm:
    """Do harm every so many seconds while `rounds` x 300 answers come; not again before one has: else it may hit every single commit."""

    def work(one: Trial, clients: Crowd, rounds: int) -> None:
        stop = threading.Event()
        before = 0

        def strike() -> None:
            nonlocal before
            if clients.answered > before:
                before = clients.answered
                harm(one)

        thread = every(gap, stop, strike)
        try:
            one.answered(clients, 300 * rounds)
        finally:
            stop.set()
            thread.join()
            one.proxy.heal()
            one.note = f"{one.proxy.strikes} commits struck" if one.proxy.strikes else one.note

    return work


_turns = itertools.cycle([True, False])


def _cut_commit(one: Trial) -> None:
    """In turn before the server gets it, and after."""
    one.proxy.cut_at(b"COMMIT", delivered=next(_turns))


def _kill_server(one: Trial, clients: Crowd, rounds: int) -> None:
    for _ in range(rounds):
        one.answered(clients, 200)
        one.services.run("kill", one.kind)
        one.services.run("start", one.kind)
        one.answered(clients, 200)


def _stall(one: Trial, clients: Crowd, rounds: int) -> None:
    """A black hole for longer than a session's limits."""
    for _ in range(rounds):
        one.answered(clients, 200)
        one.proxy.stall()
        eventually(lambda: one.daemon.status()["jobs"][0]["state"] == "paused", "the source pauses", 60)
        one.proxy.heal()
        one.answered(clients, 200)
    one.note = "paused, then resumed"


def _away(one: Trial, clients: Crowd, rounds: int) -> None:
    """No connection to be had: the source pauses, status says why, work resumes."""
    for _ in range(rounds):
        one.answered(clients, 200)
        one.proxy.cut(refuse=True)
        eventually(lambda: one.daemon.status()["jobs"][0]["state"] == "paused", "the source pauses", 60)
        assert "store away" in str(one.daemon.status()["jobs"][0])
        one.proxy.heal()
        one.answered(clients, 200)


def _idle(one: Trial, clients: Crowd, rounds: int) -> None:
    """The server has closed the sessions; the next batch succeeds."""
    for _ in range(rounds):
        one.answered(clients, 100)
        end_sessions(one)
        one.answered(clients, 200)


def end_sessions(one: Trial) -> None:
    """As the server does for idle ones."""
    if one.kind == "postgresql":
        query(one.url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%%'")
        return
    for (session,) in query(one.url, "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"):
        with suppress(sqlalchemy.exc.DBAPIError):
            query(one.url, f"KILL {session}")


def _slow(one: Trial, clients: Crowd, rounds: int) -> None:
    """Each answer of the database takes 2 s (0.4 s in the short form): memory stays bounded."""
    one.answered(clients, 200)
    ingress = next(pid for pid, name in one.daemon.processes().items() if name == "hf:ingress")
    before = rss(ingress)
    one.proxy.slow(2.0 if rounds > 1 else 0.4)
    one.answered(clients, 20)
    grown = rss(ingress) - before
    one.proxy.heal()
    one.answered(clients, 300)
    one.note = f"ingress grew by {grown >> 10} KiB"
    assert grown < 32 << 20


def rss(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _kill_workers(one: Trial, clients: Crowd, rounds: int) -> None:
    for _ in range(rounds * 3):
        one.answered(clients, 100)
        for worker in one.daemon.workers()[:1]:
            with suppress(AssertionError, ProcessLookupError):
                one.daemon.kill(worker["pid"], signal.SIGKILL)


def _read_only(one: Trial, clients: Crowd, rounds: int) -> None:
    """The server takes connections and refuses to write: nothing is dead-lettered."""
    for _ in range(rounds):
        one.answered(clients, 200)
        refuse_writes(one, True)
        try:
            eventually(lambda: one.daemon.status()["jobs"][0]["state"] == "paused", "the source pauses", 60)
        finally:
            refuse_writes(one, False)
        one.answered(clients, 200)


def refuse_writes(one: Trial, refuse: bool) -> None:
    """The whole server of MariaDB, this database of PostgreSQL."""
    if one.kind == "mariadb":
        query(one.url, f"SET GLOBAL read_only = {int(refuse)}")
        return
    how = "SET default_transaction_read_only = on" if refuse else "RESET default_transaction_read_only"
    query(one.url, "SET default_transaction_read_only = off", f"ALTER DATABASE {sqlalchemy.make_url(one.url).database} {how}")
    end_sessions(one)


SCENARIOS: dict[str, Harm] = {
    "cut-commit": repeated(0.05, _cut_commit),
    "cut": repeated(0.5, lambda one: one.proxy.cut()),
    "truncate": repeated(0.2, lambda one: one.proxy.truncate(random.randrange(2000))),
    "away": _away,
    "stall": _stall,
    "kill-server": _kill_server,
    "idle": _idle,
    "slow": _slow,
    "read-only": _read_only,
    "kill-workers": _kill_workers,
}


OPTIONS: dict[str, dict[str, Any]] = {"slow": {"timeout": "60s"}}


def run(fault: str, kind: str, databases: Databases, services: Any, rounds: int = 1) -> Result:
    """One scenario on one server."""
    with trial(kind, databases, services, **OPTIONS.get(fault, {})) as one:
        clients = Crowd(one.port, reqs=8, window=40)
        with clients:
            one.answered(clients, 50)
            SCENARIOS[fault](one, clients, rounds)
        return one.judge(fault, clients)


def two_daemons(kind: str, databases: Databases, services: Any, count: int = 600) -> Result:
    """8 threads x 2 processes x 2 daemons on one database, all sent the same identities: each has one effect."""
    with trial(kind, databases, services) as first, trial(kind, _Same(first), services) as second:
        crowds = [Crowd(one.port, reqs=8, window=100) for one in (first, second)]
        with crowds[0], crowds[1]:
            first.answered(crowds[0], count)
            second.answered(crowds[1], count)
        replays = sum(int(one.daemon.log().count("batch.replayed")) for one in (first, second))
        crowds[0].answers.update(crowds[1].answers)
        crowds[0].unanswered |= crowds[1].unanswered
        first.note = f"{replays} replays"
        return first.judge("two-daemons", crowds[0])


class _Same:
    """The database of another trial."""

    def __init__(self, other: Trial) -> None:
        self._other = other

    def make(self, _kind: str) -> str:
        return self._other.url


def begin_without_a_store(kind: str, databases: Databases, services: Any) -> Result:
    """Every worker dies while the store is away; those that take their place wait for it, more often than a crash loop may."""
    with trial(kind, databases, services, timeout="2s") as one:
        clients = Crowd(one.port, reqs=4, window=10)
        with clients:
            one.answered(clients, 50)
            one.proxy.cut(refuse=True)
            for worker in one.daemon.workers():
                with suppress(AssertionError, ProcessLookupError):
                    one.daemon.kill(worker["pid"])
            eventually(lambda: one.daemon.log().count("worker.failed") > BUDGET + 2, "many look for it", 110)
            job = one.daemon.status()["jobs"][0]
            assert job["state"] == "paused", job
            assert "the store is not to be had" in job["reason"]
            assert job["since"] <= time.time()
            assert "the store is not to be had" in one.daemon.run("status").stdout
            one.proxy.heal()
            one.answered(clients, 50)
        return one.judge("begin without a store", clients)


def poison(kind: str, databases: Databases, services: Any) -> Result:
    """A message that kills every worker it meets: it ends alone, as a dead letter in the store; the others have their effects."""
    with trial(kind, databases, services) as one:
        clients = Crowd(one.port, reqs=4, window=20)
        with clients, zmq.Context() as context, context.socket(zmq.REQ) as sock:
            one.answered(clients, 50)
            sock.linger = 0
            sock.connect(f"tcp://127.0.0.1:{one.port}")
            sock.send(b"poison")
            assert sock.poll(90_000), "its client waits for ever"
            assert sock.recv() == b"FALSE"
            one.answered(clients, 50)
        result = one.judge("poison", clients)
        assert result.dead == 1
        return replace(result, dead=0, note="1 dead letter, as it must be")


def fault_points(kind: str, databases: Databases, services: Any, point: str, kills: int = 3) -> Result:
    """Workers that die at a fault point, again and again, under load."""
    environ = {"HOLDFAST_FAULT": f"{point}:40"}
    with trial(kind, databases, services, environ=environ) as one:
        clients = Crowd(one.port, reqs=4, window=40)
        with clients:
            eventually(lambda: restarts(one) >= kills, f"{kills} deaths at {point}", 100 + 6 * kills)
        one.note = f"{restarts(one)} deaths"
        return one.judge(f"SIGKILL {point}", clients)


def restarts(one: Trial) -> int:
    """How many workers have died so far."""
    return one.daemon.log().count("worker.died") or sum(w.get("restarts", 0) for w in one.daemon.workers())
