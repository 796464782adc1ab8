"""The guard: a supervisor that ended unasked is started again, once; one that was stopped stays stopped (S12)."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import Crowd, ask, effects

from holdfast.linux import process
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]

IDENTITY = "    def identity(self, message):\n        return message.text\n"


def _guarded(make: Make, toml: str = "", more: str = IDENTITY) -> tuple[DaemonProcess, int]:
    daemon = make(toml, more)
    told = daemon.run("start", "--guard")
    assert told.returncode == 0, told.stderr + daemon.log()
    return daemon, _guard(daemon)


def _guard(daemon: DaemonProcess) -> int:
    (pid,) = (pid for pid, name in daemon.processes().items() if name == "hf:guard")
    return pid


def _state(daemon: DaemonProcess) -> str:
    try:
        return str(daemon.status()["state"])
    except OSError:
        return "away"


def _kill_supervisor(daemon: DaemonProcess) -> None:
    old = daemon.pid
    daemon.kill(old)
    eventually(lambda: daemon.pid != old and _state(daemon) == "running", "another supervisor is ready")


def test_a_killed_supervisor_is_started_again_and_nothing_is_lost_or_doubled(make: Make) -> None:
    daemon, guard = _guarded(make, "[jobs.Add]\nprocesses = 2\n")
    before = set(daemon.processes()) - {guard}
    with Crowd(daemon.port, reqs=6, window=1, again_after=0.5) as crowd:
        eventually(lambda: crowd.answered > 100, "the load has begun")
        for _ in range(3):
            _kill_supervisor(daemon)
            count = crowd.answered
            eventually(lambda count=count: crowd.answered > count + 50, "it serves again")
    done = effects(daemon.folder / "add.db")
    assert {name: done[name] for name in crowd.answers} == dict.fromkeys(crowd.answers, 1)
    assert {answer for answers in crowd.answers.values() for answer in answers} == {b"TRUE"}
    now = daemon.processes()
    assert sum(name == "hf:supervisor" for name in now.values()) == 1
    assert sum(name.startswith("hf:Add") for name in now.values()) == 2
    assert not before & set(now)
    eventually(lambda: daemon.log().count("guard.recovered") == 3, "each is in the log")
    assert "killed by SIGKILL" in daemon.log()
    assert daemon.status()["guard_pid"] == guard == process.parent(daemon.pid)
    assert daemon.run("stop").returncode == 0
    assert daemon.processes() == {}


def test_stop_is_no_end_to_recover_from(make: Make) -> None:
    daemon, guard = _guarded(make)
    assert daemon.status()["guarded"]
    assert "guarded by pid" in daemon.run("status").stdout
    assert daemon.run("start", "--guard").returncode == 0
    assert _guard(daemon) == guard
    assert daemon.run("stop").returncode == 0
    assert daemon.processes() == {}
    assert "guard.noticed" not in daemon.log()
    assert daemon.run("status").returncode == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_guard_is_a_signal_to_the_daemon(make: Make, number: int) -> None:
    daemon, guard = _guarded(make)
    log = daemon.folder / "state" / "t.log"
    log.rename(daemon.folder / "state" / "t.log.1")
    daemon.kill(guard, signal.SIGUSR1)
    eventually(log.exists, "the log was opened again")
    daemon.kill(guard, number)
    eventually(lambda: not daemon.processes(), "all are gone")
    assert "guard.noticed" not in daemon.log()


def test_a_wedged_supervisor_is_stopped_with_its_guard(make: Make) -> None:
    daemon, _ = _guarded(make, "stop_timeout = '1s'\n")
    daemon.kill(daemon.pid, signal.SIGSTOP)
    assert daemon.run("stop").returncode == 0
    assert daemon.processes() == {}
    assert "guard.noticed" not in daemon.log()


def test_a_supervisor_that_answers_nothing_is_taken_for_hung_and_replaced(make: Make) -> None:
    daemon, guard = _guarded(make, "guard_patience = '4s'\n")
    old = daemon.pid
    daemon.kill(old, signal.SIGSTOP)
    eventually(lambda: daemon.pid != old and _state(daemon) == "running", "another supervisor is ready")
    assert _guard(daemon) == guard
    assert "guard.hung" in daemon.log()
    assert "it answered nothing for 4 s" in daemon.log()
    assert ask(daemon.port, "a") == b"TRUE"


def test_what_user_code_left_behind_goes_before_the_next_supervisor(make: Make) -> None:
    daemon, guard = _guarded(make)
    assert ask(daemon.port, "a,helper") == b"TRUE"
    before = set(daemon.processes()) - {guard}
    _kill_supervisor(daemon)
    assert not before & set(daemon.processes())


def test_restart_keeps_the_guard(make: Make) -> None:
    daemon, guard = _guarded(make)
    pid = daemon.pid
    assert daemon.run("restart").returncode == 0
    assert (daemon.pid, daemon.status()["guard_pid"]) == (pid, guard)
    _kill_supervisor(daemon)
    assert daemon.status()["guard_pid"] == guard


def test_a_first_start_that_fails_has_its_verdict_and_leaves_nothing(make: Make) -> None:
    daemon = make(app="import no_such_module\n")
    told = daemon.run("start", "--guard")
    assert (told.returncode, "no_such_module" in told.stderr) == (1, True)
    assert daemon.processes() == {}
    assert daemon.run("status").returncode == 3


def test_starts_that_fail_again_and_again_are_told_and_slow_down(make: Make) -> None:
    daemon, guard = _guarded(make)
    good = daemon.file.read_text()
    daemon.file.write_text("import no_such_module\n")
    daemon.kill(daemon.pid)
    eventually(lambda: daemon.log().count("guard.noticed") >= 4, "the free tries are over")
    assert "pause_s=0.0" not in [line for line in daemon.log().splitlines() if "guard.noticed" in line][-1]
    eventually(lambda: _dead_and_why(daemon) == (1, True), "between two tries, which are further and further apart, it is dead")
    daemon.file.write_text(good)
    daemon.kill(guard, signal.SIGHUP)
    eventually(lambda: _state(daemon) == "running", "it has recovered")
    assert _guard(daemon) == guard
    assert ask(daemon.port, "a") == b"TRUE"


def _dead_and_why(daemon: DaemonProcess) -> tuple[int, bool]:
    told = daemon.run("status")
    return told.returncode, "no_such_module" in told.stdout


@pytest.mark.parametrize("verb", ["stop", "start"])
def test_a_guard_that_waits_obeys_commands(make: Make, verb: str) -> None:
    daemon, guard = _guarded(make)
    good = daemon.file.read_text()
    daemon.file.write_text("import no_such_module\n")
    daemon.kill(daemon.pid)
    eventually(lambda: daemon.log().count("guard.noticed") >= 4, "the free tries are over")
    daemon.kill(guard, signal.SIGSTOP)  # or it might try again before the command has begun
    eventually(lambda: set(daemon.processes()) == {guard}, "the last try is over")
    daemon.file.write_text(good)
    with subprocess.Popen(daemon.command(verb), env=daemon.environ) as command:
        eventually(lambda: _has_pending(guard, signal.SIGTERM), "it is told")
        daemon.kill(guard, signal.SIGCONT)
        assert command.wait(60) == 0
    assert guard not in daemon.processes()
    if verb == "start":
        assert daemon.status()["guarded"]
        assert sum(name == "hf:supervisor" for name in daemon.processes().values()) == 1
    else:
        assert daemon.processes() == {}
        assert daemon.run("status").returncode == 3


def _has_pending(pid: int, number: int) -> bool:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["ShdPnd"], 16) & 1 << (number - 1))


def test_guard_in_the_foreground_recovers_and_leaves_with_the_daemon(make: Make) -> None:
    daemon = make()
    with subprocess.Popen(daemon.command("guard"), env=daemon.environ, stderr=subprocess.PIPE, text=True, start_new_session=True) as guard:
        eventually(lambda: (daemon.folder / "run" / "t.sock").exists() and _state(daemon) == "running", "it is ready")
        _kill_supervisor(daemon)
        os.killpg(guard.pid, signal.SIGINT)  # as a terminal does
        _, log = guard.communicate(timeout=60)
    assert guard.returncode == 0
    assert "guard.recovered" in log
    assert daemon.processes() == {}


def test_the_guard_has_neither_the_locks_nor_anything_but_the_standard_library(make: Make) -> None:
    _, guard = _guarded(make)
    held = _held(guard)
    assert not [path for path in held if path.endswith(".lock")]
    assert [path for path in held if path.endswith("t.guard")]
    assert process.command_line(guard)[1:3] == ["-I", "-S"]
    with open(f"/proc/{guard}/maps") as file:
        assert "site-packages" not in file.read()


def _held(pid: int) -> list[str]:
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return found
