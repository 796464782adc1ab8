"""Started as root: nothing but the supervisor keeps it, and nothing starts that would (G8; behaviours 10, 11)."""

import contextlib
import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import ask, effects

from holdfast.testing.builds import Builds
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to drop")


def _make_for(make: Make, user: str, **more: str) -> DaemonProcess:
    daemon = make(f'user = "{user}"\n', **more)
    daemon.folder.chmod(0o755)
    daemon.file.chmod(0o644)
    daemon.file.write_text(daemon.file.read_text().replace(f"{daemon.folder}/add.db", f"{daemon.folder}/data/add.db"))
    (daemon.folder / "data").mkdir()
    os.chown(daemon.folder / "data", pwd.getpwnam("nobody").pw_uid, -1)
    return daemon


def test_every_process_but_the_supervisor_has_nothing_of_root(make: Make, open_path: Path) -> None:
    daemon = _make_for(make, "nobody")
    daemon.start()
    assert ask(daemon.port, "a") == b"TRUE"
    others = [pid for pid in daemon.processes() if pid != daemon.pid]
    assert len(others) == 5
    _have_nothing_of_root(others)
    assert (daemon.folder / "data" / "add.db").owner() == "nobody"
    assert effects(daemon.folder / "data" / "add.db") == {"a": 1}


def _have_nothing_of_root(pids: list[int]) -> None:
    nobody = pwd.getpwnam("nobody")
    groups = {str(group) for group in os.getgrouplist("nobody", nobody.pw_gid)}
    for pid in pids:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert set(status["Uid"].split()) == {str(nobody.pw_uid)}
        assert set(status["Gid"].split()) == {str(nobody.pw_gid)}
        assert set(status["Groups"].split()) == groups
        assert status["NoNewPrivs"].strip() == "1"
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}


def test_an_upgrade_leaves_root_with_the_supervisor_alone_and_refuses_what_others_can_change(make: Make, open_path: Path) -> None:
    builds = Builds(open_path / "builds")
    for version in ("1.0.1", "1.0.2"):
        builds.make(version)
    builds.use("1.0.1")
    daemon = _make_for(make, "nobody")
    daemon.python = builds.python
    daemon.start()
    builds.use("1.0.2")
    told = daemon.ask("upgrade")
    assert (told["exit"], daemon.status()["version"]) == (0, "1.0.2"), told
    names = ["hf:zygote", "hf:twin", "hf:Add/0"]
    eventually(lambda: all(list(daemon.processes().values()).count(name) == 1 for name in names), "the old generation has gone")
    _have_nothing_of_root([pid for pid in daemon.processes() if pid != daemon.pid])
    assert ask(daemon.port, "a") == b"TRUE"
    os.chown(builds.make("1.0.3") / "supervisor" / "daemon.py", pwd.getpwnam("nobody").pw_uid, -1)
    builds.use("1.0.3")
    told = daemon.ask("upgrade")
    builds.use("1.0.2")
    assert "nobody can write the package" in told["error"]
    assert (told["exit"], daemon.status()["version"]) == (1, "1.0.2")


def test_the_supervisor_of_root_holds_no_network_socket_and_no_driver(make: Make, open_path: Path) -> None:
    daemon = _make_for(make, "nobody")
    daemon.start()
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "zmq" not in maps
    assert "sqlite" not in maps
    assert Path(f"/proc/{daemon.pid}/cmdline").read_text().split("\0")[1:3] == ["-I", "-S"]


def test_a_low_port_is_bound_before_the_drop_and_only_on_roots_word(make: Make, open_path: Path) -> None:
    daemon = _make_for(make, "nobody")
    port = _low_port()
    text = daemon.file.read_text()
    daemon.file.write_text(text.replace(str(daemon.port), str(port)))
    told = daemon.run("start")
    assert (told.returncode, str(port) in told.stderr) == (2, True)
    daemon.toml.write_text(daemon.toml.read_text() + f'[jobs.Add]\nsource = "zmq+rep://127.0.0.1:{port}"\n')
    daemon.start()
    assert ask(port, "a") == b"TRUE"
    assert daemon.run("reload").returncode == 0
    assert ask(port, "b") == b"TRUE"
    ingress = next(pid for pid, name in daemon.processes().items() if name == "hf:ingress")
    daemon.kill(ingress)
    assert ask(port, "c") == b"TRUE"
    assert daemon.run("restart").returncode == 0
    assert ask(port, "d") == b"TRUE"
    assert effects(daemon.folder / "data" / "add.db") == dict.fromkeys("abcd", 1)


def _low_port() -> int:
    """One below 1024 that nobody has; which is tried first depends on the process, since several runs may look at once."""
    for number in range(300):
        port = 600 + (os.getpid() + number) % 300
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("every port below 1024 is taken")


@pytest.mark.parametrize(
    ("user", "status", "said"),
    [("no-such-user", 2, "no user 'no-such-user'"), ("", 2, 'user = "www-data"'), ("nobdy", 2, "did you mean 'nobody'")],
)
def test_who_it_is_to_run_as_must_be_said_and_known(make: Make, user: str, status: int, said: str) -> None:
    daemon = make(f'user = "{user}"\n')
    told = daemon.run("start")
    assert (told.returncode, said in told.stderr) == (status, True), told.stderr


def test_a_service_user_who_cannot_read_the_app_is_told(make: Make, open_path: Path) -> None:
    daemon = _make_for(make, "nobody")
    daemon.file.chmod(0o600)
    told = daemon.run("start")
    assert (told.returncode, "app.py" in told.stderr and "nobody" in told.stderr) == (2, True), told.stderr


def test_what_the_service_user_can_write_is_not_trusted(make: Make, open_path: Path) -> None:
    daemon = _make_for(make, "nobody")
    daemon.toml.chmod(0o666)
    told = daemon.run("start")
    assert (told.returncode, "holdfast.toml" in told.stderr) == (4, True), told.stderr


def test_a_run_directory_that_cannot_be_written_is_told(make: Make, open_path: Path) -> None:
    daemon = _make_for(make, "nobody")
    (daemon.folder / "run").mkdir(mode=0o755)
    (daemon.folder / "run" / "other").touch()
    told = daemon.run("start")
    assert (told.returncode, "run_dir" in told.stderr) == (4, True), told.stderr
