"""Who holds a lock: the process whose descriptor has it, whatever the file says."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.linux.holder import holder


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "fee.lock"
    path.write_text(json.dumps({"pid": os.getpid(), "app": "fee.py"}))
    return path


def test_nobody_holds_what_is_not_locked(lock: Path, tmp_path: Path) -> None:
    with holder(str(lock)) as found:
        assert found is None
    with holder(str(tmp_path / "nothing")) as found:
        assert found is None
    with open(lock), holder(str(lock)) as found:  # open is not locked
        assert found is None


def test_the_holder_is_found_and_the_lock_left_alone(lock: Path) -> None:
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with holder(str(lock)) as found:
            assert found is not None
            assert (found.pid, found.app) == (os.getpid(), "fee.py")
            assert not found.ended(0)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"pid": "1"}', '{"pid": -1}', '{"pid": 0}', '{"pid": 99999999999999999999}', '{"pid": 1}']
)
def test_what_the_file_says_is_not_believed(lock: Path, text: str) -> None:
    lock.write_text(text)
    with open(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with holder(str(lock)) as found:
            assert found is None


def test_another_locked_file_does_not_count(lock: Path, tmp_path: Path) -> None:
    with open(tmp_path / "other", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with holder(str(lock)) as found:
            assert found is None


def test_a_symlink_is_not_followed(lock: Path, tmp_path: Path) -> None:
    (tmp_path / "link.lock").symlink_to(lock)
    with pytest.raises(OSError), holder(str(tmp_path / "link.lock")):
        pass


def test_the_holder_can_be_ended_and_waited_for(lock: Path) -> None:
    program = "import fcntl, signal, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('up', flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        lock.write_text(json.dumps({"pid": process.pid}))
        with holder(str(lock)) as found:
            assert found is not None
            assert found.pid == process.pid
            assert found.kill(signal.SIGKILL)
            assert found.ended(30)
            process.wait()
            assert not found.kill(signal.SIGKILL)


def _as_nobody(work: Callable[[], bool]) -> bool:
    """What `work` says in a process without root's rights."""
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            good = work()
        finally:
            os._exit(0 if good else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _held_by_nobody(path: Path) -> bool:
    with holder(str(path)) as found:
        return found is None


def _may_not_look(path: Path) -> bool:
    try:
        return _held_by_nobody(path) and False
    except PermissionError:
        return True


@pytest.fixture
def open_lock(lock: Path, open_path: Path) -> Path:
    assert lock.parent == open_path
    lock.chmod(0o644)
    return lock


def test_a_zombie_holds_nothing(open_lock: Path) -> None:
    zombie = os.fork()
    if zombie == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        os._exit(0)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    open_lock.write_text(json.dumps({"pid": zombie}))
    assert _as_nobody(lambda: _held_by_nobody(open_lock))
    os.waitpid(zombie, 0)


def test_a_stale_pid_of_a_process_that_we_may_not_look_into_holds_nothing(open_lock: Path) -> None:
    open_lock.write_text(json.dumps({"pid": 1}))
    assert _as_nobody(lambda: _held_by_nobody(open_lock))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's processes are closed to others")
def test_a_holder_that_we_may_not_look_into_is_not_denied(open_lock: Path) -> None:
    with open(open_lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert _as_nobody(lambda: _may_not_look(open_lock))
