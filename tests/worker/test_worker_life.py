from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from nursery import Nursery, Ward, readable, until

from holdfast.model import faults

FEE = """
import os, sys, threading, time
from holdfast import Job

class Fee(Job):
    brief = False

    def setup(self):
        print("set up on", threading.current_thread().name, flush=True)

    def teardown(self):
        print("torn down on", threading.current_thread().name, flush=True)

    def handle(self, message):
        word, _, rest = message.text.partition(" ")
        return getattr(self, "do_" + word, self.do_echo)(rest)

    def do_echo(self, rest):
        return "echo " + rest

    def do_block(self, rest):
        open(rest + ".began", "w").close()
        while not os.path.exists(rest):
            time.sleep(0.002)
        return "unblocked"

    def do_exit(self, rest):
        sys.exit(4)

    def do_interrupt(self, rest):
        raise KeyboardInterrupt

    def do_fork(self, rest):
        pid = os.fork()
        if pid == 0:
            if rest == "raise":
                raise ValueError("in the child")
            return "child"
        return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    def do_setting(self, rest):
        return self.settings["db"][rest]
"""


def drain(ward: Ward) -> None:
    ward.say({"do": "drain"})


def begun(nursery: Nursery, name: str) -> str:
    """A message that is being handled until the file of this name is there."""
    until(lambda: (nursery.folder / f"{name}.began").exists(), "the handler's beginning")
    return name


def test_nothing_is_asked_for_before_activation_and_then_the_credit(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(batch=10, threads=3)
    ward.expect("ready")
    assert not readable(ward.data, 0)
    ward.say({"do": "activate"})
    assert ward.frame() == ("credit", 40)
    ward.deliver(b"one", b"two", b"three", b"four", b"five")
    assert sorted(item[0] for item in ward.settled(5)) == [1, 2, 3, 4, 5]
    assert ward.frame() == ("credit", 5)
    assert ward.reading().pid == ward.pid
    until(lambda: ward.reading().counters["handled"] == 5, "counters on the board")


def test_letters_are_looked_for_at_activation_and_when_told(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn().active()
    until(lambda: ward.log.read_text().count("letters looked for") == 1, "first look")
    ward.say({"do": "retry-letters"})
    until(lambda: ward.log.read_text().count("letters looked for") == 2, "second look")


def test_quarantine_takes_one_message_at_a_time(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn("quarantine", threads=4, batch=100).active()
    for seq in range(1, 4):
        assert ward.frame() == ("credit", 1)
        ward.deliver(b"x", first=seq)
        assert ward.frame() == ("settled", [[seq, 0, b"echo "]])
    assert ward.log.read_text().count("set up on") == 1


def test_drain_finishes_what_was_begun_and_gives_back_the_rest(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(store="standin://", batch=2, threads=1).active()
    ward.deliver(b"block here", b"two", b"three", b"four")
    begun(nursery, "here")
    drain(ward)
    assert ward.frame() == ("credit", 4)
    assert ward.frame() == ("back", [3, 4])
    ward.deliver(b"late", first=5)
    assert ward.frame() == ("back", [5])
    (nursery.folder / "here").touch()
    ward.expect("drained")
    assert ward.wait() == 0
    assert ward.rest() == {"settled": [[1, 0, b"unblocked"]], "back": [2]}
    log = ward.log.read_text()
    assert "torn down on Fee-0" in log
    assert log.index("torn down") < log.index("engine closed") < log.index("connection closed") < log.index("store closed")


def test_the_end_of_the_supervisor_is_a_drain(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn().active()
    ward.deliver(b"block here")
    begun(nursery, "here")
    ward.channel.close()
    (nursery.folder / "here").touch()
    assert ward.settled(1) == [[1, 0, b"unblocked"]]
    assert ward.wait() == 0


def test_after_the_end_of_the_supervisor_a_stuck_worker_is_gone_within_stop_timeout(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(stop_timeout=0.3).active()
    ward.deliver(b"block never")
    begun(nursery, "never")
    ward.channel.close()
    assert ward.wait() == 1
    assert "worker.forced" in ward.log.read_text()


def test_the_end_of_the_ingress_is_a_drain_that_says_so(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn().active()
    ward.deliver(b"block here", b"two")
    begun(nursery, "here")
    ward.data.close()
    (nursery.folder / "here").touch()
    assert ward.expect("drained")["reason"] == "ingress gone"
    assert ward.wait() == 0


def test_an_outcome_that_does_not_fit_the_socket_gets_there_in_the_end(nursery: Nursery) -> None:
    nursery.loaded(FEE.replace('"echo " + rest', "rest * 100000"))
    ward = nursery.spawn(batch=50).active()
    ward.deliver(*[b"echo 0123456789"] * 20)
    until(lambda: ward.reading().counters["handled"] == 20, "all handled, though nothing was read")
    drain(ward)
    settled = ward.settled(20)
    assert [item[0] for item in settled] == list(range(1, 21))
    assert {len(item[2]) for item in settled} == {1_000_000}
    ward.expect("drained")
    assert ward.wait() == 0


@pytest.mark.parametrize(
    ("change", "reason", "trace"),
    [
        (("def setup(self):", "def setup(self):\n        1 / 0"), "fee.py:9: ZeroDivisionError: division by zero", "1 / 0"),
        (("def setup(self):", "def setup(self):\n        sys.exit(7)"), "fee.py:9: the application called sys.exit(7)", "sys.exit(7)"),
        (("brief = False", "def __init__(self):\n        raise RuntimeError('no')"), "RuntimeError: no", "raise RuntimeError"),
        (
            ("brief = False", "@classmethod\n    def setup_process(cls, settings):\n        raise OSError('disk')"),
            "setup_process: fee.py:8: OSError: disk",
            "raise OSError",
        ),
    ],
)
def test_a_failing_setup_says_why_with_its_traceback(nursery: Nursery, change: tuple[str, str], reason: str, trace: str) -> None:
    nursery.loaded(FEE.replace(*change))
    ward = nursery.spawn(threads=2)
    packet = ward.expect("failed")
    assert reason in packet["reason"]
    assert packet["exit"] == 1
    told = ward.trace()
    assert trace in told
    assert "holdfast/worker" not in told
    assert ward.wait() == 1


@pytest.mark.parametrize("role", ["worker", "prepare"])
@pytest.mark.parametrize("url", ["standin://away", "standin://refusing"])
def test_a_store_that_is_not_to_be_had_is_status_5(nursery: Nursery, url: str, role: str) -> None:
    if (url, role) == ("standin://refusing", "prepare"):
        nursery.loaded(FEE.replace("brief = False", "@classmethod\n    def prepare(cls, db):\n        raise ConnectionResetError"))
    else:
        nursery.loaded(FEE)
    ward = nursery.spawn(role, store=url)
    packet = ward.expect("failed")
    assert (packet["exit"], "store is not to be had" in packet["reason"]) == (5, True)
    assert ward.wait() == 5


def test_prepare_installs_and_leaves(nursery: Nursery) -> None:
    change = 'schema = "CREATE"\n\n    @classmethod\n    def prepare(cls, db):\n        print("prepared with", db)'
    nursery.loaded(FEE.replace("brief = False", change))
    ward = nursery.spawn("prepare", store="standin://")
    ward.expect("prepared")
    assert ward.wait() == 0
    assert ward.log.read_text() == "installed CREATE\nprepared with db\n"


def test_a_failing_prepare_says_why(nursery: Nursery) -> None:
    nursery.loaded(FEE.replace("brief = False", "@classmethod\n    def prepare(cls, db):\n        db.nothing"))
    ward = nursery.spawn("prepare", store="standin://")
    assert "AttributeError" in ward.expect("failed")["reason"]
    assert "db.nothing" in ward.trace()
    assert ward.wait() == 1


def test_settings_reach_the_handler_and_broken_ones_keep_it_from_starting(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(settings_path="test.ini", settings_text="[db]\nuser=te%st\n").active()
    ward.deliver(b"setting user")
    assert ward.settled(1)[0][2] == b"te%st"
    broken = nursery.spawn(settings_path="test.ini", settings_text="[db\n")
    assert "settings: test.ini:1" in broken.expect("failed")["reason"]


def test_exit_and_interrupt_are_failures_of_their_message(nursery: Nursery) -> None:
    nursery.loaded("import atexit\natexit.register(print, 'the exit handler ran', flush=True)\n" + FEE)
    ward = nursery.spawn().active()
    ward.deliver(b"exit", b"interrupt", b"echo on")
    assert [item[1:] for item in ward.settled(3)] == [[1, b"SystemExit(4)"], [1, b"KeyboardInterrupt()"], [0, b"echo on"]]
    drain(ward)
    ward.expect("drained")
    assert ward.wait() == 0
    assert "exit handler" not in ward.log.read_text()


def test_a_handler_that_forked_does_its_work_once(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(store="standin://").active()
    ward.deliver(b"fork", b"fork raise", b"echo on")
    assert [item[2] for item in ward.settled(3)] == [b"0", b"1", b"echo on"]
    drain(ward)
    ward.expect("drained")
    assert ward.wait() == 0
    assert "settled" not in ward.rest()
    assert ward.log.read_text().count("connection closed") == 1


def test_a_worker_that_has_tried_its_share_says_once_that_it_is_due_and_works_on(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(most_messages=3, heartbeat=600.0).active()
    ward.deliver(b"one", b"two")
    ward.settled(2)
    assert not readable(ward.channel, 0)
    ward.deliver(b"three", first=3)
    assert ward.expect("due") == {"say": "due", "reason": "max_messages: 3 messages tried"}
    ward.deliver(b"four", first=4)
    ward.settled(2)
    drain(ward)
    ward.expect("drained")
    assert ward.wait() == 0


def test_a_pause_stops_the_source_and_gives_back(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(batch=1).active()
    assert ward.frame() == ("credit", 2)
    ward.deliver(b"pause", b"two")
    packet = ward.expect("paused")
    assert packet["reason"] == "store away"
    assert abs(packet["since"] - time.time()) < 60
    assert ward.frame() == ("back", [2])
    ward.deliver(b"three", first=3)
    assert ward.frame() == ("back", [3])
    drain(ward)
    until(lambda: ward.hear()["say"] == "drained", "drained")
    assert ward.wait() == 0


def test_the_end_of_a_pause_grants_anew(nursery: Nursery) -> None:
    nursery.loaded(FEE.replace("brief = False", "brief = True"))
    ward = nursery.spawn(batch=1).active()
    assert ward.frame() == ("credit", 2)
    ward.deliver(b"pause", b"two")
    seen = set()
    while seen != {1, 2}:
        kind, what = ward.frame()
        if kind == "back":
            ward.deliver(b"two", first=what[0])
        elif kind == "settled":
            seen.add(what[0][0])


def test_a_handler_over_its_limit_is_said_to_hang(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(timeout=0.1, heartbeat=600.0).active()
    ward.deliver(b"block never", b"two")
    assert ward.expect("hung") == {"say": "hung", "thread": 0, "seqs": [1]}
    begun(nursery, "never")
    os.kill(ward.pid, signal.SIGABRT)
    assert ward.wait() == -signal.SIGABRT
    assert "do_block" in ward.log.read_text()


def test_the_board_shows_that_the_loop_turns(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn(heartbeat=0.1).active()
    first = until(lambda: ward.reading().heartbeat_ns, "a heartbeat")
    until(lambda: ward.reading().heartbeat_ns >= first + 3 * 10**8, "more of them")


@pytest.mark.parametrize("point", ["after-receive", "after-settle"])
def test_fault_points_kill(nursery: Nursery, point: str) -> None:
    assert point in faults.POINTS
    nursery.environment["HOLDFAST_FAULT"] = f"{point}:2"
    nursery.loaded(FEE)
    ward = nursery.spawn().active()
    ward.deliver(b"one")
    assert ward.settled(1)[0][0] == 1
    ward.deliver(b"two", first=2)
    assert ward.wait() == -signal.SIGKILL


def test_what_the_app_logs_is_an_event(nursery: Nursery) -> None:
    nursery.loaded(FEE.replace("sys.exit(4)", "__import__('logging').getLogger('shop').warning('low on %s', rest)"))
    ward = nursery.spawn().active()
    ward.deliver(b"exit eggs")
    ward.settled(1)
    line = next(line for line in ward.log.read_text().split("\n") if "low on" in line)
    assert line.startswith('\x1e{"t":')
    assert '"level":"warning","event":"log","job":"Fee","worker":"Fee/0.1","text":"low on eggs","logger":"shop"' in line


RUN = """
from holdfast import Job

class Fee(Job):
    rounds = 0

    def run(self):
        self.rounds += 1
        print("round", self.rounds, flush=True)
        if self.rounds == 2:
            raise SystemExit("oops")
        if self.rounds == 3:
            with self.transaction() as db:
                print("with", db, flush=True)
        if self.rounds > 3:
            while self.alive():
                self.sleep(60)
            print("asked to end", flush=True)
"""


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().split("\n") if not line.startswith("\x1e")]


def test_run_is_called_again_until_the_drain(nursery: Nursery) -> None:
    nursery.loaded(RUN)
    ward = nursery.spawn(source="", interval=0.01, store="standin://")
    ward.expect("ready")
    assert "round" not in ward.log.read_text()
    ward.say({"do": "activate"})
    until(lambda: "round 4" in ward.log.read_text(), "the fourth round")
    drain(ward)
    ward.expect("drained")
    assert ward.wait() == 0
    assert lines(ward.log)[:7] == ["round 1", "round 2", "round 3", "begin", "with db", "commit", "round 4"]
    assert "asked to end" in lines(ward.log)
    assert '"event":"run.failed"' in ward.log.read_text()
    assert ward.reading().counters["failed"] == 1


def test_run_that_was_never_activated_drains(nursery: Nursery) -> None:
    nursery.loaded(RUN)
    ward = nursery.spawn(source="", store="standin://")
    ward.expect("ready")
    drain(ward)
    ward.expect("drained")
    assert ward.wait() == 0
    assert "round" not in ward.log.read_text()


def test_an_engine_that_breaks_ends_the_process(nursery: Nursery) -> None:
    nursery.loaded("import holdfast.worker.engine as e\ne.Engine.process = lambda self, deliveries: 1 / 0\n" + FEE)
    ward = nursery.spawn().active()
    ward.deliver(b"one")
    assert ward.wait() == 70
    assert "thread.broken" in ward.log.read_text()
    assert "settled" not in ward.rest()
