"""Upgrade: the supervisor's own program is replaced in place: same PID, same children, lock held, nobody notices (behaviour 21)."""

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crowd import ask, effects
from upgrade_kit import TWO, Make, count, named, pids, use

from holdfast.linux import process
from holdfast.testing.builds import Builds, edit
from holdfast.testing.crowd import Crowd
from holdfast.testing.daemon import DaemonProcess, eventually


@pytest.fixture
def daemon(make: Make, builds: Builds) -> DaemonProcess:
    one = make(TWO)
    one.python = builds.python
    return one


def life(daemon: DaemonProcess) -> tuple[int, int | None]:
    """What a process is, through an exec."""
    return daemon.pid, process.start_time(daemon.pid)


def descriptors(pid: int) -> int:
    """How many it has; 0 when it has just gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def test_a_load_does_not_notice_upgrades(daemon: DaemonProcess, builds: Builds) -> None:
    daemon.start()
    before, ingress = life(daemon), named(daemon, "ingress")
    with Crowd(daemon.port, reqs=8, window=50) as crowd:  # type: ignore[attr-defined]
        count(crowd)
        for version in ("1.0.2", "1.0.1"):
            old = pids(daemon)
            builds.use(version)
            told = daemon.run("upgrade")
            assert (told.returncode, told.stderr) == (0, ""), daemon.log()
            assert f"runs holdfast {version} instead of 1.0." in told.stdout
            assert daemon.status()["version"] == version
            assert life(daemon) == before
            assert not pids(daemon) & old, "the new code's workers"
            count(crowd)
    assert named(daemon, "ingress") == ingress, "its code is the same"
    assert crowd.unanswered == set()
    assert {answer for answers in crowd.answers.values() for answer in answers} == {b"TRUE"}
    assert crowd.compare(effects(daemon.folder / "add.db")).fine
    eventually(lambda: daemon.status()["jobs"][0]["handled"] >= crowd.answered, "counters go on; a message is counted after its answer")


def test_descriptors_do_not_become_more_and_none_reaches_a_child(daemon: DaemonProcess, builds: Builds) -> None:
    daemon.start()
    assert daemon.ask("upgrade")["exit"] == 0
    before = _steady_descriptors(daemon)
    for version in ("1.0.2", "1.0.1"):
        builds.use(version)
        assert daemon.ask("upgrade")["exit"] == 0
        assert _inheritable(daemon.pid) == []
    eventually(lambda: _steady_descriptors(daemon) == before, "as many as before")


def _inheritable(pid: int) -> list[int]:
    """Descriptors, but for the standard ones, that a program executed by this process would get."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            text = (Path(f"/proc/{pid}/fdinfo") / fd).read_text()
            if int(fd) > 2 and not int(text.split("flags:")[1].split()[0], 8) & os.O_CLOEXEC:
                found.append(int(fd))
    return found


def _steady_descriptors(daemon: DaemonProcess) -> list[tuple[str, int]]:
    """By process, once nothing opens or closes any more: those who leave have left, those who came have all they want."""
    seen: list[list[tuple[str, int]]] = []

    def look() -> list[tuple[str, int]]:
        seen.append(sorted((name, descriptors(pid)) for pid, name in daemon.processes().items()))
        if not _settled(daemon):
            seen.clear()
            return []
        return seen[-1] if seen[-30:].count(seen[-1]) == 30 else []

    found: list[tuple[str, int]] = eventually(look, "they stay as they are")
    return found


def _settled(daemon: DaemonProcess) -> bool:
    names = sorted(daemon.processes().values())
    return names.count("hf:zygote") == names.count("hf:twin") == 1 and sum(name.startswith("hf:Add") for name in names) == 2


def test_the_lock_is_never_free(daemon: DaemonProcess, builds: Builds) -> None:
    daemon.start()
    done = threading.Event()
    told: list[tuple[int, str]] = []

    def start_again() -> None:
        while not done.is_set():
            once = daemon.run("start")
            told.append((once.returncode, once.stdout))

    thread = threading.Thread(target=start_again)
    thread.start()
    try:
        builds.use("1.0.2")
        assert daemon.ask("upgrade")["exit"] == 0
    finally:
        done.set()
        thread.join()
    assert told
    assert all(status == 0 and f"pid {daemon.pid}" in text and "already" in text for status, text in told), told


def test_connections_to_the_control_socket_go_on(daemon: DaemonProcess, builds: Builds) -> None:
    """Who asks, who has asked half a question, and who has not asked yet."""
    daemon.start()
    builds.use("1.0.2")
    with _connected(daemon) as asking, contextlib.ExitStack() as others:
        asking.sendall(b'{"verb": "upgrade"}\n')
        asking.recv(1, socket.MSG_PEEK)  # it has begun, and those who are slow to ask are not awaited for long
        silent, halfway = (others.enter_context(_connected(daemon)) for _ in range(2))
        halfway.sendall(b'{"verb": ')
        eventually(lambda: daemon.status()["version"] == "1.0.2", "the exec is done")
        halfway.sendall(b'"status"}\n')
        assert _answers(halfway)[-1]["result"]["version"] == "1.0.2"
        silent.sendall(b'{"verb": "status"}\n')
        assert _answers(silent)[-1]["result"]["version"] == "1.0.2"
        answers = _answers(asking)
    assert answers[0] == {"progress": "checking the new program"}
    assert answers[-1]["result"] | {"changes": []} == {
        "before": "1.0.1", "version": "1.0.2", "generation": 2, "pid": daemon.pid, "changes": [],
    }  # fmt: skip


def _connected(daemon: DaemonProcess) -> socket.socket:
    control = socket.socket(socket.AF_UNIX)
    control.settimeout(60)
    control.connect(str(daemon.folder / "run" / "t.sock"))
    return control


def _answers(control: socket.socket) -> list[dict[str, Any]]:
    with control.makefile("rb") as stream:
        return [json.loads(line) for line in stream]


def _kept(daemon: DaemonProcess) -> Callable[[], None]:
    """To be called later: nothing has changed since."""
    before, processes = life(daemon), set(daemon.processes())

    def look() -> None:
        assert life(daemon) == before
        eventually(lambda: set(daemon.processes()) == processes, "every process is the same")
        assert daemon.status()["version"] == "1.0.1"
        assert ask(daemon.port, "still there") == b"TRUE"  # type: ignore[attr-defined]

    return look


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a syntax error": (lambda p: edit(p / "supervisor/daemon.py", "class Supervisor:", "class class:"), "SyntaxError"),
    "a syntax error elsewhere": (lambda p: edit(p / "worker/zygote.py", "def main(", "def def("), "SyntaxError"),
    "a missing module": (lambda p: (p / "supervisor" / "agenda.py").unlink(), "No module named 'holdfast.supervisor.agenda'"),
    "another state": (
        lambda p: edit(p / "supervisor/state.py", "VERSION = 1\n", "VERSION = 0\n"),
        "the state is of version 1, and this program knows 0",
    ),
    "a field it cannot fill": (
        lambda p: edit(p / "supervisor/state.py", "    attached: bool\n", "    attached: bool\n    mood: str\n"),
        "State.children[0].mood is missing",
    ),
    "an entry that is gone": (lambda p: (p / "process.py").unlink(), "process.py"),
    "a check that is killed": (
        lambda p: edit(p / "supervisor/check.py", "    parser = arg", "    os.kill(os.getpid(), 9)\n    parser = arg"),
        "killed by SIGKILL",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_build_is_refused_and_changes_nothing(daemon: DaemonProcess, builds: Builds, broken: Path, what: str) -> None:
    daemon.start()
    kept = _kept(daemon)
    break_it, reason = BROKEN[what]
    break_it(broken)
    use(builds, broken)
    told = daemon.ask("upgrade")
    builds.use("1.0.1")
    assert told["exit"] == 1
    assert reason in told["error"] + told.get("trace", "")
    assert "the old one goes on" in told["error"]
    kept()


def test_a_build_that_cannot_restore_gives_way_to_the_one_before(daemon: DaemonProcess, builds: Builds, broken: Path) -> None:
    """Its check was fine, and yet: the exec is done, and undone."""
    daemon.start()
    kept = _kept(daemon)
    edit(broken / "supervisor/succession.py", "    become_reaper()\n", "    raise RuntimeError('no way')\n")
    use(builds, broken)
    with Crowd(daemon.port, reqs=4, window=10) as crowd:  # type: ignore[attr-defined]
        count(crowd)
        told = daemon.ask("upgrade")
        count(crowd)
    assert told == {"exit": 1, "error": "the new program could not go on: RuntimeError: no way; the old one goes on"}
    kept()
    assert crowd.unanswered == set()
    builds.use("1.0.2")
    assert daemon.ask("upgrade")["result"]["version"] == "1.0.2", "what is called is still what the link names"


def test_a_broken_app_is_kept_while_the_framework_is_upgraded(daemon: DaemonProcess, builds: Builds) -> None:
    daemon.start()
    pid, old = daemon.pid, pids(daemon)
    daemon.file.write_text("x x x")
    builds.use("1.0.2")
    told = daemon.run("upgrade")
    assert told.returncode == 1
    assert "framework upgraded from 1.0.1 to 1.0.2, application kept: " in told.stderr
    assert "SyntaxError" in told.stderr
    assert (daemon.pid, pids(daemon), daemon.status()["version"]) == (pid, old, "1.0.2")
    assert ask(daemon.port, "x") == b"TRUE"  # type: ignore[attr-defined]


def test_upgrading_what_does_not_run_says_so(daemon: DaemonProcess) -> None:
    assert daemon.run("upgrade").returncode == 7


def test_usr2_upgrades_and_follows_a_reload_that_is_under_way(daemon: DaemonProcess, builds: Builds) -> None:
    daemon.start()
    pid = daemon.pid
    builds.use("1.0.2")
    daemon.kill(pid, signal.SIGHUP)
    daemon.kill(pid, signal.SIGUSR2)
    daemon.kill(pid, signal.SIGHUP)
    eventually(lambda: daemon.status()["version"] == "1.0.2", "upgraded")
    eventually(lambda: "reload" not in daemon.status(), "and reloaded")
    assert daemon.status()["last_reload"]["done"]
    assert daemon.pid == pid


def test_workers_that_die_during_the_exec_are_replaced(daemon: DaemonProcess, builds: Builds, broken: Path) -> None:
    """The new program finds them dead: here they die in the exec itself, before it has looked at anything."""
    daemon.start()
    daemon.file.write_text("x x x")  # so that no reload replaces them
    edit(
        broken / "supervisor/succession.py",
        "    state = envelope.opened()\n",
        "    state = envelope.opened()\n    import signal\n"
        "    [os.kill(c.pid, signal.SIGKILL) for c in state.children if c.kind in ('worker', 'twin', 'logger')]\n",
    )
    old = pids(daemon)
    use(builds, broken)
    told = daemon.ask("upgrade")
    assert "application kept" in told["error"]
    eventually(lambda: len(pids(daemon)) == 2 and not pids(daemon) & old, "both are replaced")
    eventually(lambda: _settled(daemon) and named(daemon, "logger"), "and so are the others")
    assert ask(daemon.port, "x") == b"TRUE"  # type: ignore[attr-defined]


def test_signals_of_the_exec_window_are_all_delivered(make: Make, builds: Builds, broken: Path) -> None:
    """HUP and USR1 at any moment of four upgrades kill nobody; a TERM at the end is obeyed."""
    daemon = make(TWO)
    daemon.python = builds.python
    daemon.start()
    before = life(daemon)
    done = threading.Event()

    def storm() -> None:
        while not done.wait(0.003):
            os.kill(before[0], signal.SIGUSR1)
            os.kill(before[0], signal.SIGHUP)

    daemon.file.write_text("x x x")  # a reload is short then
    thread = threading.Thread(target=storm)
    thread.start()
    try:
        for number in range(4):
            builds.use("1.0.2" if number % 2 == 0 else "1.0.1")
            told = daemon.ask("upgrade")
            assert "application kept" in told["error"], told
            assert life(daemon) == before
    finally:
        done.set()
        thread.join()
    gate = daemon.folder / "gate"
    wait = f"    while not os.path.exists({str(gate)!r}):\n        __import__('time').sleep(0.01)\n"
    edit(broken / "supervisor/check.py", "    parser = arg", f"{wait}    parser = arg")  # or it might be over before it is seen
    use(builds, broken)
    with _connected(daemon) as asking:
        asking.sendall(b'{"verb": "upgrade"}\n')
        checker = eventually(lambda: next((p for p in process.children(before[0]) if "check" in process.command_line(p)), 0), "a check")
        gate.touch()
        eventually(lambda: process.start_time(checker) is None, "the exec is about to be")
        os.kill(before[0], signal.SIGTERM)
        eventually(lambda: process.start_time(before[0]) != before[1], "the TERM is obeyed")


def test_restart_takes_the_new_version_too(daemon: DaemonProcess, builds: Builds) -> None:
    daemon.start()
    pid = daemon.pid
    builds.use("1.0.2")
    assert daemon.run("restart").returncode == 0
    assert (daemon.pid, daemon.status()["version"]) == (pid, "1.0.2")


def test_the_guard_watches_on(daemon: DaemonProcess, builds: Builds) -> None:
    assert daemon.run("start", "--guard").returncode == 0
    guard = daemon.status()["guard_pid"]
    builds.use("1.0.2")
    assert daemon.ask("upgrade")["exit"] == 0
    status = daemon.status()
    assert (status["guarded"], status["guard_pid"], process.parent(daemon.pid)) == (True, guard, guard)
    old = daemon.pid
    daemon.kill(old)
    eventually(lambda: daemon.pid != old and (daemon.folder / "run" / "t.sock").exists() and _serves(daemon), "it is started again")
    assert daemon.status()["version"] == "1.0.2"


def _serves(daemon: DaemonProcess) -> bool:
    try:
        return bool(daemon.status()["state"] == "running")
    except OSError:
        return False


# --- another ingress
