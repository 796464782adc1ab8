"""What is done to the workers that are there: new settings, looking at their stacks, replacing those whose time has come."""

import json
import signal
from collections.abc import Callable

import pytest
from crowd import effects

from holdfast.testing.crowd import Crowd
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]

LOOPS = """
class Add(Job):
    processes = 2
    interval = "1h"

    def setup(self):
        self.seen = open("seen", "a")

    def reload(self, settings):
        user = settings["db"].get("user", "nobody")
        if user == "refused":
            raise ValueError("no such user: " + user)
        print(os.getpid(), user, file=self.seen, flush=True)

    def run(self):
        while self.alive():
            self.sleep(3600)
"""
APP = "import ctypes, os, time\nfrom holdfast import Job\n"


def _pids(daemon: DaemonProcess) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


def _seen(daemon: DaemonProcess) -> list[tuple[int, str]]:
    lines = (daemon.folder / "seen").read_text().split("\n")
    return [(int(pid), user) for pid, _, user in (line.partition(" ") for line in lines if line)]


@pytest.fixture
def looping(make: Make) -> DaemonProcess:
    one = make('settings = "app.ini"\nprobation = "0s"\n', app=APP + LOOPS)
    one.settings = one.folder / "app.ini"  # type: ignore[attr-defined]
    one.settings.write_text("[db]\nhost = here\n")  # type: ignore[attr-defined]
    return one


def test_new_settings_reach_the_workers_that_are_there(looping: DaemonProcess) -> None:
    """S8: add `user = test` under [db], signal, see it; no PID changes at all."""
    looping.start()
    before = set(looping.processes())
    looping.settings.write_text("[db]\nhost = here\nuser = test\n")  # type: ignore[attr-defined]
    told = looping.run("reload", "--settings")
    assert told.returncode == 0, told.stderr
    assert "settings" in told.stdout
    assert sorted(_seen(looping)) == sorted((pid, "test") for pid in _pids(looping))
    assert set(looping.processes()) == before
    assert looping.status()["generation"] == 1


def test_a_reload_that_raises_leaves_the_old_settings_to_all(looping: DaemonProcess) -> None:
    looping.start()
    before = _pids(looping)
    for broken in ("[db]\nuser = refused\n", "no section = at all\n"):
        looping.settings.write_text(broken)  # type: ignore[attr-defined]
        told = looping.run("reload", "--settings")
        assert told.returncode == 1
        assert "runs on as it was" in told.stderr
    eventually(lambda: "no such user: refused" in looping.log(), "the reason is in the log")
    assert _pids(looping) == before
    assert {user for _pid, user in _seen(looping)} <= {"nobody"}, "nobody has kept the new ones"
    looping.kill(min(before))
    eventually(lambda: len(_pids(looping) - before) == 1, "a dead worker is replaced, with the settings that were taken last")


def test_a_replacement_has_the_settings_that_were_taken(looping: DaemonProcess) -> None:
    looping.start()
    looping.settings.write_text("[db]\nuser = test\n")  # type: ignore[attr-defined]
    assert looping.run("reload", "--settings").returncode == 0
    looping.settings.unlink()  # type: ignore[attr-defined]
    before = _pids(looping)
    looping.kill(min(before))
    (new,) = eventually(lambda: _pids(looping) - before, "it is replaced")
    looping.settings.write_text("[db]\nuser = again\n")  # type: ignore[attr-defined]
    assert looping.run("reload", "--settings").returncode == 0
    assert (new, "again") in _seen(looping)


def test_without_a_settings_file_there_is_nothing_to_reload(make: Make) -> None:
    daemon = make()
    daemon.start()
    told = daemon.run("reload", "--settings")
    assert told.returncode == 1
    assert 'set settings = "app.ini"' in told.stderr


STUCK = """
class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    processes = 2

    def handle(self, message):
        open(message.text, "w").close()
        if message.text == "asleep":
            time.sleep(3600)
        ctypes.PyDLL(None).usleep(3_600_000_000)
"""


def test_stacks_show_who_does_what_also_beside_wedged_workers(make: Make) -> None:
    daemon = make(app="")
    daemon.file.write_text(APP + STUCK.format(port=daemon.port))  # type: ignore[attr-defined]
    daemon.start()
    with Crowd(daemon.port, reqs=0, window=0):  # type: ignore[attr-defined]
        import zmq

        with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
            sock.linger = 0
            sock.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
            sock.send_multipart([b"", b"asleep"])
            eventually((daemon.folder / "asleep").exists, "one sleeps")
            sock.send_multipart([b"", b"in C"])
            eventually((daemon.folder / "in C").exists, "one holds the interpreter's lock")
            assert sum(worker["in_flight"] for worker in daemon.workers()) == 2
            told = daemon.run("stacks", "--json")
            assert told.returncode == 0, told.stderr
            workers = json.loads(told.stdout)["workers"]
            assert [worker["silence"] for worker in workers] == ["", ""]
            handlers = [worker["threads"][0] for worker in workers]
            assert all(one["messages"] and one["since_s"] > 0 for one in handlers)
            assert all(any(frame["function"] == "handle" for frame in one["frames"]) for one in handlers)
            daemon.kill(workers[0]["pid"], signal.SIGSTOP)
            text = daemon.run("stacks").stdout
            assert "it is stopped" in text
            assert "in handle" in text
            daemon.run("stop", "--now")


def test_stacks_of_what_does_not_run(make: Make) -> None:
    assert make().run("stacks").returncode == 7


GROWS = """
    def identity(self, message):
        global leak
        leak = globals().get("leak", b"") + b"x" * (1 << 18)
"""
LIMITS = {
    "messages": "max_messages = 40",
    "age": 'max_age = "1s"\nheartbeat = "1s"',
    "memory": 'max_rss = "100MiB"\nheartbeat = "1s"',
}


@pytest.mark.parametrize("limit", LIMITS)
def test_workers_whose_time_has_come_are_replaced_and_nobody_notices(make: Make, limit: str) -> None:
    daemon = make(f"[jobs.Add]\nprocesses = 2\n{LIMITS[limit]}\n", more=GROWS if limit == "memory" else "")
    daemon.start()
    before = _pids(daemon)
    with Crowd(daemon.port, reqs=4, window=5) as crowd:  # type: ignore[attr-defined]
        eventually(lambda: len(_pids(daemon)) == 2 and not _pids(daemon) & before, "both were replaced")
    eventually(lambda: "worker.recycled" in daemon.log(), "it is in the log")
    assert crowd.unanswered == set()
    assert crowd.compare(effects(daemon.folder / "add.db")).fine
    assert all(worker["restarts"] == 0 for worker in daemon.workers()), "that was no death"
