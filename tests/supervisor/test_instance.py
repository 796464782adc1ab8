"""One instance: the lock decides, stale files never block, and only what is really ours is ended (G1)."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import ConfigurationError, NoRightsError
from holdfast.linux import process
from holdfast.linux.privileges import look_up
from holdfast.supervisor.instance import BusyError, Instance


def _instance(folder: Path) -> Instance:
    instance = Instance(str(folder / "run"), str(folder / "state"), "fee", None)
    instance.make_directories()
    return instance


def test_a_second_one_is_told_who_has_it(tmp_path: Path) -> None:
    _instance(tmp_path).lock("/app/fee.py")
    with pytest.raises(BusyError) as caught:
        _instance(tmp_path).lock("/app/fee.py")
    assert caught.value.pid == os.getpid()


def test_the_name_in_use_by_another_app_is_an_error(tmp_path: Path) -> None:
    _instance(tmp_path).lock("/app/fee.py")
    with pytest.raises(ConfigurationError, match=r"in use by another app, /app/fee\.py"):
        _instance(tmp_path).lock("/app/mail.py")


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    code = (
        "import sys; from holdfast.supervisor.instance import Instance\n"
        "i = Instance(sys.argv[1] + '/run', sys.argv[1] + '/state', 'fee', None)\n"
        "i.make_directories(); i.lock('/app/fee.py'); i.write_pid()\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(BusyError):
            _instance(tmp_path).lock("/app/fee.py")
        holder.kill()
    assert (tmp_path / "run" / "fee.pid").exists()
    _instance(tmp_path).lock("/app/fee.py")


def test_the_pid_file_is_whole_and_readable(tmp_path: Path) -> None:
    instance = _instance(tmp_path)
    instance.write_pid()
    path = tmp_path / "run" / "fee.pid"
    assert path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_a_dead_supervisor_left_is_ended(tmp_path: Path) -> None:
    instance = _instance(tmp_path)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:
        instance.write_children({child.pid: process.start_time(child.pid)})
        assert instance.end_leftovers() == [child.pid]
        assert child.wait() == -signal.SIGKILL


def test_what_has_the_mark_of_a_dead_supervisor_is_ended_and_nothing_else(tmp_path: Path) -> None:
    """Only after a death: who stopped in good order has left no list. Another daemon's are left alone."""
    one, other = _instance(tmp_path / "one"), _instance(tmp_path / "other")
    cat = ["/bin/cat"]
    with (
        subprocess.Popen(cat, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=one.mark()) as ours,
        subprocess.Popen(cat, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=other.mark()) as stranger,
    ):
        _wait_for(ours)
        _wait_for(stranger)
        assert one.end_leftovers() == []
        one.write_children({})
        assert one.end_leftovers() == [ours.pid]
        assert ours.wait() == -signal.SIGKILL
        stranger.communicate()
        assert stranger.returncode == 0


def _wait_for(cat: "subprocess.Popen[bytes]") -> None:
    """Its environment can be read once its program runs; Popen returns a moment before."""
    assert cat.stdin is not None
    assert cat.stdout is not None
    cat.stdin.write(b"?\n")
    cat.stdin.flush()
    assert cat.stdout.readline() == b"?\n"


@pytest.mark.parametrize("change", [{"start_time": 1}, {"boot_id": "another"}, {"start_time": None}])
def test_a_recycled_pid_is_left_alone(tmp_path: Path, change: dict[str, object]) -> None:
    instance = _instance(tmp_path)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:
        row = {"pid": child.pid, "start_time": process.start_time(child.pid), "boot_id": process.boot_id()}
        (tmp_path / "run" / "fee.children").write_text(json.dumps([{**row, **change}]))
        assert instance.end_leftovers() == []
        assert child.poll() is None
        child.communicate()
        assert child.returncode == 0


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(NoRightsError, match=r"set run_dir and state_dir"):
        _instance(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root could be made to kill what is not the service user's")
def test_root_ends_nothing_that_is_not_the_service_users(open_path: Path) -> None:
    instance = Instance(str(open_path / "run"), str(open_path / "state"), "fee", look_up("nobody"))
    instance.make_directories()
    cat = ["/bin/cat"]
    with subprocess.Popen(cat, stdin=subprocess.PIPE) as roots, subprocess.Popen(cat, stdin=subprocess.PIPE, user="nobody") as ours:
        instance.write_children({pid: process.start_time(pid) for pid in (roots.pid, ours.pid)})
        assert instance.end_leftovers() == [ours.pid]
        assert ours.wait() == -signal.SIGKILL
        roots.communicate()
        assert roots.returncode == 0
