"""A service manager is told what happens (behaviours 33, 36), and its watchdog is fed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crowd import ask
from notify_kit import Message, ServiceManager

from holdfast.control.client import connect
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]
WAIT = "while not os.path.exists('go on'):\n            time.sleep(0.01)\n"


@contextmanager
def _unit(daemon: DaemonProcess, address: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
    """The daemon as a service manager starts it. It is to end by itself, and well, with what it is told inside."""
    environ = {**daemon.environ, "NOTIFY_SOCKET": address, **more}
    with subprocess.Popen(daemon.command("foreground"), env=environ, stderr=subprocess.PIPE, text=True) as unit:
        try:
            yield unit
            assert unit.wait(60) == 0
        finally:
            if unit.poll() is None:
                unit.kill()


def _usec() -> int:
    return time.monotonic_ns() // 1000


def _a_change(manager: ServiceManager, change: Callable[[], object]) -> Message:
    """From RELOADING, with its moment, to READY, which is returned."""
    before = _usec()
    change()
    assert before <= int(manager.until("RELOADING=1")["MONOTONIC_USEC"]) <= _usec()
    return manager.until("READY=1")


def _restart(daemon: DaemonProcess) -> None:
    """As the command asks for it, which waits then."""
    with connect(str(daemon.folder / "run"), "t") as control:
        control.sendall(b'{"verb": "restart"}\n')


def _know_nothing_of_it(daemon: DaemonProcess, supervisor: int) -> None:
    """Whatever user code told the manager would be believed."""
    environs = [_environ(pid) for pid in set(daemon.processes()) - {supervisor}]
    told = [environ for environ in environs if b"TEST_DAEMON=" in environ]
    assert len(told) >= 4, "logger, ingress, zygote, a worker; of the generation before one may just be leaving"
    assert not [environ for environ in told if b"NOTIFY_SOCKET=" in environ or b"WATCHDOG_" in environ]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def test_it_tells_what_it_does_from_start_to_stop(make: Make) -> None:
    daemon = make('probation = "0s"\n[jobs.Add]\nprocesses = 2\n', more=f"    def setup(self):\n        {WAIT}")
    good = daemon.toml.read_text()
    with ServiceManager(str(daemon.folder / "notify")).read() as manager, _unit(daemon, manager.address) as unit:
        manager.until("STATUS=starting: starting workers")
        assert manager.states() == [], "nobody is ready"
        (daemon.folder / "go on").touch()
        ready = manager.until("READY=1")
        assert (ready["MAINPID"], ready["STATUS"]) == (str(unit.pid), "running, generation 1; Add 2 workers")
        assert len(daemon.workers()) == 2

        daemon.toml.write_text(good.replace("run_dir", "rum_dir"))
        ready = _a_change(manager, lambda: daemon.kill(unit.pid, signal.SIGHUP))
        assert ready["STATUS"].startswith("running, generation 1; the last reload was refused: ")
        assert "rum_dir" in ready["STATUS"], "refused before anything was begun"
        daemon.toml.write_text(good)
        ready = _a_change(manager, lambda: daemon.ask("upgrade"))
        assert ready["MAINPID"] == str(unit.pid)
        assert ready["STATUS"].startswith("running, generation ")
        assert ready["STATUS"].endswith("; Add 2 workers")
        _know_nothing_of_it(daemon, unit.pid)

        daemon.kill(unit.pid, signal.SIGTERM)
        assert int(manager.until("STOPPING=1")["EXTEND_TIMEOUT_USEC"]) > 30_000_000
        assert unit.wait(60) == 0
        manager.catch_up()
        upgrade = ["RELOADING", "RELOADING", "READY"]  # the second is its reload
        assert manager.states() == ["READY", "RELOADING", "READY", *upgrade, "STOPPING"]


def test_a_restart_is_no_end_and_the_watchdog_is_fed_while_the_supervisor_turns(make: Make) -> None:
    daemon = make('[jobs.Add]\nheartbeat = "1h"\n', more=f"    def teardown(self):\n        {WAIT}")
    gate = daemon.folder / "go on"
    gate.touch()

    address = f"@holdfast-test-{os.getpid()}"
    with ServiceManager(address).read() as manager, _unit(daemon, address, WATCHDOG_USEC="1000000") as unit:
        manager.until("READY=1")
        assert _a_change(manager, lambda: _restart(daemon))["MAINPID"] == str(unit.pid)
        for _ in range(2):
            manager.until("WATCHDOG=1")  # nothing else happens

        daemon.kill(unit.pid, signal.SIGSTOP)
        try:
            stat = Path(f"/proc/{unit.pid}/stat")
            eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
            manager.catch_up()
            assert ask(daemon.port, "a") == b"TRUE"  # type: ignore[attr-defined]
            assert manager.silent(0.7), "nobody feeds it"
        finally:
            daemon.kill(unit.pid, signal.SIGCONT)
        manager.until("WATCHDOG=1")

        gate.unlink()
        _restart(daemon)
        manager.until("RELOADING=1")
        daemon.kill(unit.pid, signal.SIGTERM)  # the manager would kill what starts again now
        manager.until("STOPPING=1")
        gate.touch()
        assert unit.wait(60) == 0
        manager.catch_up()
        assert manager.states() == ["READY", "RELOADING", "READY", "RELOADING", "STOPPING"]


def test_a_manager_that_cannot_be_told_stops_nothing(make: Make) -> None:
    """It is not there; then it is, but full; then it reads, and hears what is so by then."""
    daemon = make('probation = "0s"\n')
    address = str(daemon.folder / "notify")
    with _unit(daemon, address) as unit:
        eventually(lambda: (daemon.folder / "run" / "t.sock").exists(), "it can be asked")
        assert daemon.ask("wait")["exit"] == 0
        with ServiceManager(address, full=True) as manager:
            assert daemon.ask("reload")["exit"] == 0
            assert daemon.status()["generation"] == 2  # it has tried to tell
            manager.read()
            eventually(lambda: daemon.status() and manager.catch_up() and "READY" in manager.states(), "it is told")
            assert next(one for one in manager.heard if "READY" in one)["STATUS"] == "running, generation 2; Add 1 worker"
        assert daemon.ask("stop")["exit"] == 0
        assert unit.wait(60) == 0
        assert unit.stderr is not None
        assert unit.stderr.read().count("notify.failed") == 1


def test_a_start_in_the_background_tells_nobody_and_needs_no_guard(make: Make) -> None:
    """It has inherited the socket of whoever runs the command; nobody waits there for its words."""
    daemon = make()
    with ServiceManager(str(daemon.folder / "notify")).read() as manager:
        daemon.environ |= {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "100000"}
        told = daemon.run("start", "--guard")
        assert (told.returncode, "guards it already" in told.stderr) == (0, True)
        assert "hf:guard" not in daemon.processes().values()
        assert not daemon.status()["guarded"]
        _know_nothing_of_it(daemon, daemon.pid)
        assert daemon.run("stop").returncode == 0
        assert manager.catch_up() == []
