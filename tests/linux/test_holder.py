"""Who holds a lock: the process whose descriptor has it, whatever the file says."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
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
