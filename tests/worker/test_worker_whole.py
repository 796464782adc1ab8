"""A worker with its real engine and its real store, killed and drained."""

from __future__ import annotations

import signal
import sqlite3
import time

import pytest
from nursery import Nursery, Ward

from holdfast.model.delivery import Delivery, encode

FEE = """
import os
from holdfast import Job

class Fee(Job):
    schema = "CREATE TABLE IF NOT EXISTS fee (ticket INTEGER, volume INTEGER)"

    def handle(self, message, db):
        db.execute("INSERT INTO fee (ticket, volume) VALUES (:t, 1)", {"t": message.text})
        return "done " + message.text
"""


def prepared(nursery: Nursery) -> str:
    nursery.loaded(FEE, preload=())
    store = f"sqlite:///{nursery.folder}/fee.db"
    ward = nursery.spawn("prepare", store=store)
    ward.expect("prepared")
    assert ward.wait() == 0
    return store


def tickets(nursery: Nursery) -> list[tuple[int, int]]:
    with sqlite3.connect(nursery.folder / "fee.db") as db:
        rows = db.execute("SELECT ticket, count(*) FROM fee GROUP BY ticket ORDER BY ticket").fetchall()
    db.close()
    return rows


def drained(ward: Ward) -> None:
    ward.say({"do": "drain"})
    ward.expect("drained")
    assert ward.wait() == 0


def test_messages_are_committed_and_answered(nursery: Nursery) -> None:
    ward = nursery.spawn(store=prepared(nursery)).active()
    ward.deliver(b"1", b"2", b"3")
    assert sorted(ward.settled(3)) == [[1, 0, b"done 1"], [2, 0, b"done 2"], [3, 0, b"done 3"]]
    drained(ward)
    assert tickets(nursery) == [(1, 1), (2, 1), (3, 1)]


FORKING = """
    def identity(self, message):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
        return message.text
"""


def test_an_identity_that_forked_is_told_once(nursery: Nursery) -> None:
    nursery.loaded(FEE + FORKING, preload=())
    store = f"sqlite:///{nursery.folder}/fee.db"
    assert nursery.spawn("prepare", store=store).wait() == 0
    ward = nursery.spawn(store=store).active()
    ward.deliver(b"1", b"2")
    assert sorted(ward.settled(2)) == [[1, 0, b"done 1"], [2, 0, b"done 2"]]
    ward.deliver(b"1")  # known already: no handler is called that would end the child
    assert [item[1:] for item in ward.settled(1)] == [[0, b"done 1"]]
    drained(ward)
    assert "settled" not in ward.rest()
    assert tickets(nursery) == [(1, 1), (2, 1)]


def test_tables_that_cannot_be_made_are_told_with_their_statement(nursery: Nursery) -> None:
    nursery.loaded(FEE.replace("CREATE TABLE", "CREAT TABLE"), preload=())
    ward = nursery.spawn("prepare", store=f"sqlite:///{nursery.folder}/fee.db")
    failed = ward.expect("failed")
    assert failed["exit"] == 1
    assert 'near "CREAT": syntax error; this is the statement: CREAT TABLE IF NOT EXISTS fee' in failed["reason"]
    assert ward.wait() == 1


@pytest.mark.parametrize("point", ["after-receive", "after-take", "after-handle", "after-record", "after-commit", "after-settle"])
def test_killed_anywhere_and_delivered_again_there_is_one_effect(nursery: Nursery, point: str) -> None:
    nursery.environment["HOLDFAST_FAULT"] = point
    store = prepared(nursery)
    first = nursery.spawn(store=store).active()
    first.deliver(b"1", b"2")
    assert first.wait() == -signal.SIGKILL
    nursery.close_zygote()
    nursery.environment.clear()
    nursery.loaded(FEE, preload=())
    second = nursery.spawn(store=store).active()
    second.deliver(b"1", b"2", redelivered=True)
    assert sorted(item[0] for item in second.settled(2)) == [1, 2]
    drained(second)
    assert tickets(nursery) == [(1, 1), (2, 1)]


IMPORTS = """
import os, sys

class Recorder:
    born = os.getpid()

    def find_spec(self, name, path=None, target=None):
        if os.getpid() != self.born:
            print("imported", name, flush=True)

sys.meta_path.insert(0, Recorder())
"""
TROUBLE = """
import os, threading, time, logging
from holdfast import Job, Reject, Retry

class Fee(Job):
    schema = "CREATE TABLE IF NOT EXISTS fee (ticket INTEGER UNIQUE, volume INTEGER)"

    def identity(self, message):
        return message.text

    def handle(self, message, db):
        word = message.text.partition(" ")[0]
        if word == "raise":
            raise ValueError("bäd")
        if word == "retry":
            raise Retry(after=0)
        if word == "reject":
            raise Reject("no")
        if word == "exit":
            raise SystemExit(3)
        if word == "log":
            logging.getLogger("shop").error("told", exc_info=True)
        if word == "json":
            return str(message.json())
        if word == "broken":
            db.execute("INSERT INTO nothing (a) VALUES (1)")
        if word == "many":
            db.execute("INSERT INTO fee (ticket, volume) VALUES (:t, 1)", [{"t": n} for n in range(100, 110)])
            with db.savepoint():
                return str(db.execute("SELECT count(*) FROM fee WHERE ticket IN :t", {"t": [100, 101]}).scalar())
        if word == "session":
            return str(db.session().connection() is not None)
        db.execute("INSERT INTO fee (ticket, volume) VALUES (:t, 1)", {"t": len(word)})
        return "done"
"""
WORDS = (b"a", b"a", b"raise", b"retry", b"reject", b"exit", b"log", b"broken", b"many", b"json", b"\xff", b"z", b"[1]", b"aa", b"session")


@pytest.mark.parametrize(("stored", "dead_letter"), [(True, "store"), (True, "state_dir"), (False, "state_dir")])
def test_a_worker_imports_nothing_after_its_fork(nursery: Nursery, stored: bool, dead_letter: str) -> None:
    """What it imported then would be whatever the disk holds by now, and would take its time: start, work, failures, letters, drain."""
    app = (
        TROUBLE if stored else TROUBLE.replace("message, db):", "message):").replace('        db.execute("INSERT INTO fee', '        str("')
    )
    nursery.loaded(IMPORTS + app, preload=())
    how = {"dead_letter": dead_letter, "retries": 1, "backoff": (0.0, 0.0), "settings_path": "test.ini", "settings_text": "[a]\nb=1\n"}
    if stored:
        how["store"] = f"sqlite:///{nursery.folder}/fee.db"
        nursery.zygote.say({"do": "use", "schemes": ["sqlite", "zmq+rep", "of a later version"]})
        prepare = nursery.spawn("prepare", **how)
        prepare.expect("prepared")
        assert prepare.wait() == 0
        assert "imported" not in prepare.log.read_text()
    ward = nursery.spawn(**how).active()
    ward.deliver(*WORDS)
    waiting = set(range(1, len(WORDS) + 1))
    while waiting:
        kind, what = ward.frame()
        if kind == "settled":
            waiting -= {item[0] for item in what}
        elif kind == "retry":
            for seq, _after, _reason in what:
                again = Delivery(seq, WORDS[seq - 1], time.monotonic_ns(), attempt=2)
                ward.data.sendall(encode(("m", [again])))
    ward.say({"do": "retry-letters"})
    drained(ward)
    assert [line for line in ward.log.read_text().splitlines() if line.startswith("imported")] == []
    assert ward.reading().counters["dead"] >= 3


UNRULY = """
import ctypes, os, resource, sys, threading
from holdfast import Job

class Stop(BaseException):
    pass

class Fee(Job):
    schema = "CREATE TABLE IF NOT EXISTS fee (ticket INTEGER, volume INTEGER)"

    def handle(self, message, db):
        word = message.text
        db.execute("INSERT INTO fee (ticket, volume) VALUES (:t, 1)", {"t": len(word)})
        return getattr(self, "do_" + word, str)()

    def do_exit(self):
        sys.exit(3)

    def do_stop(self):
        raise Stop("everything")

    def do_interrupt(self):
        raise KeyboardInterrupt

    def do_fork(self):
        pid = os.fork()
        return "child" if pid == 0 else str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def do_exitfork(self):
        pid = os.fork()
        if pid == 0:
            sys.exit(5)
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def do_leak(self):
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        self.open = []
        while True:
            self.open.append(os.open("/dev/null", os.O_RDONLY))

    def do_tidy(self):
        for fd in self.open:
            os.close(fd)
        return "tidy"

    def do_segfault(self):
        ctypes.string_at(0)

    def do_abort(self):
        os.abort()

    def do_gone(self):
        os._exit(9)
"""


def test_a_handler_that_exits_forks_or_raises_anything_fails_alone(nursery: Nursery) -> None:
    """Faults 21: each is the failure of its own message, in one batch with innocents, and there is one of each effect."""
    nursery.loaded(UNRULY, preload=())
    store = f"sqlite:///{nursery.folder}/fee.db"
    nursery.spawn("prepare", store=store).expect("prepared")
    ward = nursery.spawn(store=store, dead_letter="store").active()
    ward.deliver(b"a", b"exit", b"bb", b"stop", b"interrupt", b"fork", b"exitfork", b"lastly12")
    outcomes = {item[0]: item[1:] for item in ward.settled(8)}
    assert outcomes == {
        1: [0, b""], 2: [1, b"FALSE"], 3: [0, b""], 4: [1, b"FALSE"], 5: [1, b"FALSE"], 6: [0, b"0"], 7: [0, b"5"], 8: [0, b""],
    }  # fmt: skip
    drained(ward)
    assert tickets(nursery) == [(1, 1), (2, 1), (4, 1), (8, 2)]
    reading = ward.reading()
    assert (reading.counters["handled"], reading.counters["dead"]) == (5, 3)


def test_a_handler_that_leaks_descriptors_fails_and_the_worker_goes_on(nursery: Nursery) -> None:
    nursery.loaded(UNRULY, preload=())
    store = f"sqlite:///{nursery.folder}/fee.db"
    nursery.spawn("prepare", store=store).expect("prepared")
    ward = nursery.spawn(store=store, dead_letter="store", batch=1).active()
    ward.deliver(b"leak", b"a", b"tidy", b"bb")
    outcomes = {item[0]: item[1:] for item in ward.settled(4)}
    assert outcomes == {1: [1, b"FALSE"], 2: [0, b""], 3: [0, b"tidy"], 4: [0, b""]}
    assert "Too many open files" in ward.log.read_text()
    drained(ward)
    assert tickets(nursery) == [(1, 1), (2, 1), (4, 1)]


@pytest.mark.parametrize(("word", "status"), [("segfault", -signal.SIGSEGV), ("abort", -signal.SIGABRT), ("gone", 9)])
def test_a_message_that_kills_its_worker_is_named_by_the_board(nursery: Nursery, word: str, status: int) -> None:
    """Faults 20: what was begun is the suspect, and nothing of it has happened."""
    nursery.loaded(UNRULY, preload=())
    store = f"sqlite:///{nursery.folder}/fee.db"
    nursery.spawn("prepare", store=store).expect("prepared")
    ward = nursery.spawn(store=store).active()
    ward.deliver(b"a", word.encode(), b"bb")
    assert ward.wait() == status
    assert [begun.seqs for begun in ward.reading().begun] == [(2,)]
    assert tickets(nursery) == []
    assert ("do_" + word in ward.log.read_text()) == (status < 0)
