"""Deaths under load: every message answered TRUE has had exactly one effect, and nobody waits for ever (G3, G4, G6)."""

import json
import threading
import time
from collections.abc import Callable

import pytest
from crowd import Crowd, ask, effects

from holdfast.model import faults
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]

IDENTITY = "    def identity(self, message):\n        return message.text\n"


def _exactly_once(daemon: DaemonProcess, crowd: Crowd) -> None:
    done = effects(daemon.folder / "add.db")
    assert crowd.answered
    assert {name: done[name] for name in crowd.answers} == dict.fromkeys(crowd.answers, 1)
    assert all(len(answers) == 1 for answers in crowd.answers.values()), "one message, two answers"
    assert not {name for name, volume in done.items() if volume != 1}
    assert set(done) <= set(crowd.answers) | crowd.unanswered


def _kill_every(daemon: DaemonProcess, seconds: float, until: float) -> int:
    kills, pause = 0, threading.Event()
    while time.monotonic() < until:
        pause.wait(seconds)
        for worker in daemon.workers()[:1]:
            daemon.kill(worker["pid"])
            kills += 1
    return kills


@pytest.mark.parametrize("more", ["", IDENTITY], ids=["delivery ids", "identity"])
def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(make: Make, more: str) -> None:
    daemon = make(more=more)
    daemon.start()
    with Crowd(daemon.port) as crowd:
        eventually(lambda: crowd.answered > 50, "the load has begun")
        kills = _kill_every(daemon, 0.5, time.monotonic() + 20.0)
    assert kills >= 10
    assert crowd.unanswered == set()
    assert {answer for answers in crowd.answers.values() for answer in answers} == {b"TRUE"}
    assert crowd.longest < 20.0
    _exactly_once(daemon, crowd)


def test_clients_that_send_again_get_the_first_answer(make: Make) -> None:
    daemon = make(more=IDENTITY)
    daemon.start()
    with Crowd(daemon.port, again_after=0.02, window=1, reqs=8) as crowd:
        eventually(lambda: crowd.answered > 20, "the load has begun")
        _kill_every(daemon, 0.3, time.monotonic() + 3.0)
    done = effects(daemon.folder / "add.db")
    assert {name: done[name] for name in crowd.answers} == dict.fromkeys(crowd.answers, 1)
    assert crowd.again
    assert all(answers == {b"TRUE"} for answers in crowd.answers.values())


@pytest.mark.parametrize("point", faults.POINTS)
def test_a_death_at_any_step_loses_and_doubles_nothing(make: Make, point: str) -> None:
    daemon = make("[jobs.Add]\ncrash_limit = 1000\nbatch = 5\n")
    daemon.environ["HOLDFAST_FAULT"] = f"{point}:7"
    daemon.start()
    with Crowd(daemon.port, reqs=4, window=40) as crowd:
        eventually(lambda: sum(w["restarts"] for w in daemon.workers()) >= 5 and crowd.answered > 20, "five deaths and some answers")
        crowd.stop.set()
    assert crowd.unanswered == set()
    assert {answer for answers in crowd.answers.values() for answer in answers} == {b"TRUE"}
    _exactly_once(daemon, crowd)


@pytest.mark.parametrize("how", ["segv", "kill"], ids=["a bug in C", "as one that is out of memory"])
def test_a_message_that_kills_its_worker_ends_alone(make: Make, how: str) -> None:
    daemon = make()
    daemon.start()
    with Crowd(daemon.port) as crowd:
        eventually(lambda: crowd.answered > 50, "the load has begun")
        assert ask(daemon.port, f"poison,{how}") == b"FALSE"
        crowd.stop.set()
    _exactly_once(daemon, crowd)
    told = daemon.run("failed", "list", "--json")
    assert '"killed its worker' in told.stdout.replace("killed its worker", '"killed its worker')
    assert told.stdout.count('"id"') == 1


def test_a_hung_handler_is_ended_and_blocks_nobody(make: Make) -> None:
    daemon = make("[jobs.Add]\ntimeout = '1s'\ncrash_limit = 2\n")
    daemon.start()
    assert ask(daemon.port, "stuck,hang") == b"FALSE"
    assert ask(daemon.port, "next") == b"TRUE"
    assert "worker.hung" in daemon.log()
    eventually(lambda: "time.sleep(3600)" in daemon.log() or "in handle" in daemon.log(), "its stacks are in the log")
    assert effects(daemon.folder / "add.db") == {"next": 1}


def test_all_workers_killed_at_once_come_back_and_no_more(make: Make) -> None:
    daemon = make("[jobs.Add]\nprocesses = 4\n")
    daemon.start()
    first = {worker["pid"] for worker in daemon.workers()}
    for pid in first:
        daemon.kill(pid)
    eventually(lambda: len({w["pid"] for w in daemon.workers()} - first) == 4, "four new ones")
    assert len([name for name in daemon.processes().values() if name.startswith("hf:Add")]) == 4


def test_the_death_of_one_worker_is_not_felt_by_the_others(make: Make) -> None:
    daemon = make("[jobs.Add]\nprocesses = 3\n")
    daemon.start()
    victim, *others = [worker["pid"] for worker in daemon.workers()]
    daemon.kill(victim)

    def new_ones() -> set[int]:
        pids = {worker["pid"] for worker in daemon.workers()}
        return pids - {victim, *others} if len(pids) == 3 else set()

    assert len(eventually(new_ones, "three again")) == 1


@pytest.mark.parametrize("name", ["hf:zygote", "hf:ingress", "hf:logger"])
def test_the_death_of_any_other_process_is_survived(make: Make, name: str) -> None:
    daemon = make()
    daemon.start()
    assert ask(daemon.port, "a") == b"TRUE"
    victim = min(pid for pid, its in daemon.processes().items() if its == name)
    daemon.kill(victim)
    eventually(lambda: victim not in daemon.processes(), "it is gone")
    assert ask(daemon.port, "b") == b"TRUE"
    (worker,) = eventually(daemon.workers, "a worker is active")
    daemon.kill(worker["pid"])
    assert ask(daemon.port, "c") == b"TRUE"
    assert effects(daemon.folder / "add.db") == {"a": 1, "b": 1, "c": 1}
    assert daemon.run("stop").returncode == 0


def test_a_dead_letter_is_tried_again_by_command(make: Make) -> None:
    more = "    def setup(self):\n        self.fails = not os.path.exists('mended')\n"
    daemon = make(more=more)
    daemon.file.write_text(
        daemon.file.read_text().replace(
            'if how == "segv"', 'if how == "bank" and self.fails:\n            raise OSError("closed")\n        if how == "segv"'
        )
    )
    daemon.start()
    assert ask(daemon.port, "a,bank") == b"FALSE"
    (daemon.folder / "mended").touch()
    (worker,) = daemon.workers()
    daemon.kill(worker["pid"])
    eventually(lambda: [w for w in daemon.workers() if w["pid"] != worker["pid"]], "a new worker")
    told = daemon.run("failed", "retry", "--all")
    assert told.returncode == 0, told.stderr
    eventually(lambda: effects(daemon.folder / "add.db") == {"a": 1}, "it is done")
    assert daemon.run("failed", "retry", "--all").returncode == 0
    assert ask(daemon.port, "b") == b"TRUE"
    assert effects(daemon.folder / "add.db") == {"a": 1, "b": 1}


def test_a_dead_letter_that_kills_its_worker_is_tried_once(make: Make) -> None:
    daemon = make()
    kill = "if message.attempt > 1:\n                os.kill(os.getpid(), 9)"
    bank = f'if how == "bank":\n            {kill}\n            raise OSError("closed")\n'
    daemon.file.write_text(daemon.file.read_text().replace('if how == "segv"', f'{bank}        if how == "segv"'))
    daemon.start()
    assert ask(daemon.port, "a,bank") == b"FALSE"
    (worker,) = daemon.workers()
    assert daemon.run("failed", "retry", "--all").returncode == 0
    eventually(lambda: [w for w in daemon.workers() if w["pid"] != worker["pid"]], "a new worker")
    assert ask(daemon.port, "b") == b"TRUE"
    (letter,) = json.loads(daemon.run("failed", "list", "--json").stdout)
    assert (letter["state"], letter["attempts"], "never ended" in letter["reason"]) == ("dead", 2, True)
    assert sum(w["restarts"] for w in daemon.workers()) == 1
    assert effects(daemon.folder / "add.db") == {"b": 1}
