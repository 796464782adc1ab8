"""A run directory that is not as it should be: `start`, `stop` and `status` tell the truth, and where it is (G1, G2)."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from crowd import ask, effects

from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]
Told = subprocess.CompletedProcess[str]


class ReadOnly:
    """Makes a directory read-only: a file system that is mounted so for root, in a namespace of the test's own; rights for others."""

    def __init__(self, place: str, keeper: int | None) -> None:
        self._place = place
        self._inside = [] if keeper is None else ["nsenter", "--target", str(keeper), "--mount"]

    def on(self) -> None:
        if self._inside:
            self._mount("mount", "--bind", self._place)
            self._mount("mount", "--options", "remount,bind,ro")
        else:
            os.chmod(self._place, 0o555)

    def off(self) -> None:
        if self._inside:
            self._mount("umount")
        else:
            os.chmod(self._place, 0o755)

    def _mount(self, *words: str) -> None:
        subprocess.run([*self._inside, *words, self._place], check=True)

    def run(self, daemon: DaemonProcess, verb: str) -> Told:
        words = [*self._inside, *daemon.command(verb)]
        return subprocess.run(words, env=daemon.environ, capture_output=True, text=True, check=False)


@contextmanager
def _read_only(place: str) -> Iterator[ReadOnly]:
    if os.geteuid() != 0:
        yield ReadOnly(place, None)
        return
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; read _"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        keeper.stdout.readline()
        yield ReadOnly(place, keeper.pid)
        keeper.communicate(b"\n")


def test_a_read_only_run_directory(make: Make) -> None:
    daemon = make()
    run = daemon.folder / "run"
    run.mkdir()
    with _read_only(str(run)) as place:
        place.on()
        told = place.run(daemon, "start")
        assert (told.returncode, f"cannot use {run}" in told.stderr or f"{run} cannot be" in told.stderr) == (4, True), told.stderr
        assert "set run_dir" in told.stderr
        assert [place.run(daemon, verb).returncode for verb in ("status", "stop")] == [3, 0]
        assert daemon.processes() == {}
        place.off()


def test_a_run_directory_that_becomes_read_only(make: Make) -> None:
    """The daemon goes on, and is replaced worker by worker; what cannot be removed at the end is told, and stops no later start."""
    daemon = make()
    run = daemon.folder / "run"
    run.mkdir()
    with _read_only(str(run)) as place:
        assert place.run(daemon, "start").returncode == 0
        place.on()
        (worker,) = daemon.workers()
        daemon.kill(worker["pid"])
        eventually(lambda: [w for w in daemon.workers() if w["pid"] != worker["pid"]], "it is replaced")
        assert ask(daemon.port, "a") == b"TRUE"  # type: ignore[attr-defined]
        assert place.run(daemon, "status").returncode == 0
        assert place.run(daemon, "start").returncode == 0
        told = place.run(daemon, "stop")
        assert (told.returncode, f"{run}/t.pid is left" in told.stderr, daemon.processes()) == (0, True, {}), told.stderr
        told = place.run(daemon, "status")
        assert (told.returncode, "no supervisor runs" in told.stdout) == (1, True), told.stdout
        assert place.run(daemon, "start").returncode == 4
        place.off()
        assert place.run(daemon, "start").returncode == 0
        assert ask(daemon.port, "b") == b"TRUE"  # type: ignore[attr-defined]
        told = place.run(daemon, "stop")
        assert (told.returncode, told.stderr) == (0, "")
    assert effects(daemon.folder / "add.db") == {"a": 1, "b": 1}


@pytest.mark.parametrize("name", ["run/t.lock", "state/t.lock", "run/t.pid", "run/t.sock"])
def test_what_stands_in_the_way_is_named(make: Make, name: str) -> None:
    daemon = make()
    obstacle = daemon.folder / name
    obstacle.mkdir(parents=True)
    told = daemon.run("start")
    assert (told.returncode, f"{obstacle} cannot be used: Is a directory; remove" in told.stderr) == (4, True), told.stderr
    assert [daemon.run(verb).returncode for verb in ("status", "stop")] == [3, 0]
    assert daemon.processes() == {}
    assert not (daemon.folder / "run" / "t.pid").is_file()
