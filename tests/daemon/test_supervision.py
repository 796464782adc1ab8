"""What an operator sees of supervision: who dies or stops is replaced, what was left behind goes, the innocent stay."""

import signal
import threading
import time
from collections.abc import Callable

import pytest
import zmq
from crowd import ask

from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]

QUICK = '[jobs.Add]\nheartbeat = "200ms"\n'


def _pids(daemon: DaemonProcess) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


def test_all_workers_killed_at_once_are_all_replaced_and_no_more(make: Make) -> None:
    daemon = make("[jobs.Add]\nprocesses = 4\n")
    daemon.start()
    before = _pids(daemon)
    for pid in before:
        daemon.kill(pid)
    eventually(lambda: len(_pids(daemon) - before) == 4, "four new ones")
    assert len(daemon.status()["jobs"][0]["workers"]) == 4
    assert ask(daemon.port, "x,pid").startswith(b"pid")  # type: ignore[attr-defined]


def test_a_stopped_worker_is_found_by_its_heartbeat_and_replaced(make: Make) -> None:
    daemon = make(QUICK)
    daemon.start()
    (old,) = _pids(daemon)
    daemon.kill(old, signal.SIGSTOP)
    eventually(lambda: _pids(daemon) and old not in _pids(daemon), "it is replaced")
    eventually(lambda: "its loop has not turned" in daemon.log(), "the reason is in the log")


def test_a_thread_wedged_in_c_is_found_and_its_stacks_are_in_the_log(make: Make) -> None:
    daemon = make(
        QUICK,
        more="""
    def identity(self, message):
        if message.text == "wedge":
            ctypes.PyDLL(None).usleep(3_600_000_000)
        return message.text
""",
    )
    daemon.start()
    (old,) = _pids(daemon)
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        sock.send_multipart([b"", b"wedge"])
        eventually(lambda: _pids(daemon) and old not in _pids(daemon), "it is replaced")
    eventually(lambda: "in identity" in daemon.log(), "its stacks are in the log")


def test_nobody_is_judged_by_a_supervisor_that_was_stopped_itself(make: Make) -> None:
    daemon = make('[jobs.Add]\nheartbeat = "500ms"\n')
    daemon.start()
    before = _pids(daemon)
    daemon.kill(daemon.pid, signal.SIGSTOP)
    for pid in before:
        daemon.kill(pid, signal.SIGSTOP)
    threading.Event().wait(2.0)  # four missed heartbeats: this is what is tried here
    for pid in before:
        daemon.kill(pid, signal.SIGCONT)
    daemon.kill(daemon.pid, signal.SIGCONT)
    assert ask(daemon.port, "x") == b"TRUE"  # type: ignore[attr-defined]
    looked = time.monotonic()
    eventually(lambda: time.monotonic() > looked + 1.0 and daemon.status()["state"] == "running", "some looks later")
    assert _pids(daemon) == before


HELPERS = """
    def setup(self):
        import subprocess
        subprocess.Popen(["sleep", "3600"])
        subprocess.Popen(["sleep", "3601"], start_new_session=True)
"""


def test_what_a_killed_worker_has_left_is_gone_and_its_sisters_helpers_stay(make: Make) -> None:
    daemon = make("[jobs.Add]\nprocesses = 2\n", more=HELPERS)
    daemon.start()
    helpers = {pid for pid, name in daemon.processes().items() if name == "sleep"}
    assert len(helpers) == 4
    dead = min(_pids(daemon))
    daemon.kill(dead)
    eventually(lambda: len(_pids(daemon)) == 2 and dead not in _pids(daemon), "it is replaced")
    eventually(
        lambda: len([1 for name in daemon.processes().values() if name == "sleep"]) == 4,
        "its two helpers are gone, its heir has two of its own",
    )
    left = {pid for pid, name in daemon.processes().items() if name == "sleep"}
    assert len(helpers & left) == 2


@pytest.mark.parametrize("how", ["changed", "deleted"])
def test_modules_beside_the_app_come_and_go_with_a_reload(make: Make, how: str) -> None:
    daemon = make('probation = "0s"\n', app="")
    module = daemon.folder / "answers.py"
    module.write_text('ANSWER = "one"\n')
    daemon.file.write_text(
        "from holdfast import Job\nfrom answers import ANSWER\n"
        f"class Add(Job):\n    source = 'zmq+rep://127.0.0.1:{daemon.port}'\n"  # type: ignore[attr-defined]
        "    def handle(self, message):\n        return ANSWER\n"
    )
    daemon.start()
    if how == "changed":
        module.write_text('ANSWER = "two"\n')
        assert daemon.run("reload").returncode == 0
        assert ask(daemon.port, "x") == b"two"  # type: ignore[attr-defined]
        return
    module.unlink()
    told = daemon.run("reload")
    assert told.returncode == 1
    assert "No module named 'answers'" in told.stderr
    assert ask(daemon.port, "x") == b"one"  # type: ignore[attr-defined]


def test_code_that_is_broken_in_its_second_worker_alone_leaves_no_mixture(make: Make) -> None:
    daemon = make('probation = "0s"\n[jobs.Add]\nprocesses = 3\n')
    daemon.start()
    daemon.file.write_text(
        daemon.file.read_text().replace(
            "    def handle(self",
            "    def setup(self):\n        os.open('first', os.O_CREAT | os.O_EXCL)\n\n    def handle(self",
        )
    )
    told = daemon.run("reload")
    assert told.returncode == 1
    assert "FileExistsError" in told.stderr
    assert {worker["generation"] for worker in daemon.workers()} == {1}
    assert len(daemon.workers()) == 3
