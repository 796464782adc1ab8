"""What user code leaves behind: it goes with the worker that made it, and how it ended is nobody's trouble (behaviours 30, 31)."""

import os
import subprocess
from collections.abc import Callable

import pytest
from crowd import ask

from holdfast.linux import process
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]

APP = """
import os, subprocess, time
from holdfast import Daemon, Job

class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"

    def handle(self, message):
        return getattr(self, message.text)()

    def pid(self):
        return str(os.getpid())

    def fork(self):
        "One that has a session of its own, and whose parent has gone."
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            helper = os.fork()
            if helper == 0:
                time.sleep(3600)
            os.write(writer, str(helper).encode())
            os._exit(0)
        return os.read(reader, 20)

    def family(self):
        "A shell that has a child."
        with open("pids", "w") as file:
            subprocess.Popen(["sh", "-c", "sleep 3600 & echo $$ $!; wait"], stdout=file, start_new_session=True)
        while True:
            with open("pids") as file:
                pids = file.read().split()
            if len(pids) == 2:
                return " ".join(pids)
            time.sleep(0.01)

    def orphan(self):
        "One that ends in its own way when nobody of us is its parent any more."
        if os.fork() == 0:
            parent = os.getpid()
            if os.fork() == 0:
                while os.getppid() == parent:
                    time.sleep(0.01)
                os.kill(os.getpid(), 11) if os.fork() else os._exit(7)
            os._exit(3)
        return "made"
"""


@pytest.fixture
def daemon(make: Make) -> DaemonProcess:
    one = make("[jobs.Add]\nprocesses = 2\n", app="")
    one.file.write_text(APP.format(port=one.port))  # type: ignore[attr-defined]
    return one


def _workers(daemon: DaemonProcess) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


@pytest.mark.parametrize("kind", ["fork", "family"])
def test_the_helpers_of_a_killed_worker_go_with_it(daemon: DaemonProcess, kind: str) -> None:
    """Those that it executed and their children, and those that it only forked: double-forked, in a session of their own."""
    daemon.toml.write_text(daemon.toml.read_text().replace("processes = 2", "processes = 1"))
    daemon.start()
    helpers = {int(pid) for pid in ask(daemon.port, kind).split()}  # type: ignore[attr-defined]
    eventually(lambda: helpers <= set(daemon.processes()), "the helpers are there")
    (dead,) = _workers(daemon)
    daemon.kill(dead)
    eventually(lambda: _workers(daemon) - {dead}, "it is replaced")
    eventually(lambda: not helpers & set(daemon.processes()), "its helpers are gone")


def test_the_helpers_of_a_worker_that_lives_stay(daemon: DaemonProcess) -> None:
    daemon.start()
    helpers: dict[int, int] = {}
    while len(helpers) < 2:
        made = int(ask(daemon.port, "fork"))  # type: ignore[attr-defined]
        (owner,) = (pid for pid in _workers(daemon) if process.open_file(pid, 1) == process.open_file(made, 1))
        helpers.setdefault(owner, made)
    (dead, gone), (_lives, stays) = helpers.items()
    daemon.kill(dead)
    eventually(lambda: gone not in daemon.processes(), "its helper is gone")
    eventually(lambda: len(_workers(daemon) - {dead}) == 2, "it is replaced")
    assert stays in daemon.processes()


@pytest.mark.parametrize("kind", ["fork", "family"])
def test_the_helpers_that_a_killed_supervisor_has_left_go_with_the_next_start(daemon: DaemonProcess, kind: str) -> None:
    """Nobody is their parent any more, and no list names them."""
    daemon.start()
    helpers = {int(pid) for pid in ask(daemon.port, kind).split()}  # type: ignore[attr-defined]
    workers = _workers(daemon)
    daemon.kill(daemon.pid)
    eventually(lambda: not workers & set(daemon.processes()), "the workers leave by themselves")
    assert helpers <= set(daemon.processes())
    daemon.start()
    eventually(lambda: not helpers & set(daemon.processes()), "the helpers are gone")
    assert ask(daemon.port, "pid")  # type: ignore[attr-defined]


@pytest.mark.parametrize("as_init", [False, True])
def test_how_foreign_children_end_is_nobodys_trouble(daemon: DaemonProcess, as_init: bool) -> None:
    """Orphans that exit with 7 and die of SEGV, children of the supervisor by then, are reaped; it goes on, as init of a container too."""
    if as_init and os.geteuid() != 0:
        pytest.skip("only root can make a namespace of PIDs")
    command = [*(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if as_init else []), *daemon.command("foreground")]
    with subprocess.Popen(command, env=daemon.environ, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        try:
            eventually(lambda: (daemon.folder / "run" / "t.sock").exists() and daemon.status()["state"] == "running", "it is ready")
            workers = eventually(lambda: 0 not in (found := _workers(daemon)) and found, "the PIDs of both are known")
            supervisor = process.children(running.pid)[0] if as_init else running.pid
            before = set(daemon.processes())
            for _ in range(5):
                assert ask(daemon.port, "orphan") == b"made"  # type: ignore[attr-defined]
            eventually(lambda: set(daemon.processes()) == before, "all orphans have ended")
            eventually(
                lambda: len(process.children(supervisor)) == 6, "logger, ingress, zygote, twin, and two workers: all others are reaped"
            )
            assert _workers(daemon) == workers
            assert daemon.status()["jobs"][0]["workers"][0]["restarts"] == 0
            daemon.ask("stop")
            running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0
