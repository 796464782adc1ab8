"""Daemons for tests from outside, with an app whose effect shows twice when it happens twice."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.testing.builds import Builds
from holdfast.testing.daemon import DaemonProcess, free_port

APP = """
import ctypes, os, time
from holdfast import Daemon, Job

class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "sqlite:///{folder}/add.db"
    schema = "CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER)"

    def handle(self, message, db):
        name, _, how = message.text.partition(",")
        db.execute("INSERT INTO account VALUES (:n, 1)", {{"n": name}})
        if how == "segv":
            ctypes.string_at(0)
        if how == "kill":
            os.kill(os.getpid(), 9)
        if how == "hang":
            time.sleep(3600)
        if how == "helper":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(3600)
                os._exit(0)
        return "pid %d" % os.getpid() if how == "pid" else None
{more}
if __name__ == "__main__":
    Daemon(Add).main()
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Make a daemon; every one of them is stopped at the end, and nothing of it may be left."""
    made: list[DaemonProcess] = []

    def build(toml: str = "", more: str = "", app: str | None = None) -> DaemonProcess:
        folder = tmp_path / f"d{len(made)}"
        folder.mkdir()
        port = free_port()
        text = app if app is not None else APP.format(port=port, folder=folder, more=more)
        one = DaemonProcess(folder, text, toml=toml)
        one.port = port  # type: ignore[attr-defined]
        made.append(one)
        return one

    yield build
    for one in made:
        one.run("stop", "--now")
    left = {pid: name for one in made for pid, name in one.processes().items()}
    for one in made:
        for pid in one.processes():
            one.kill(pid)
    assert not left, f"left behind: {left}"
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """Two that are good."""
    builds = Builds(tmp_path_factory.mktemp("builds"))
    for version in ("1.0.1", "1.0.2"):
        builds.make(version)
    return builds


@pytest.fixture
def builds(installed: Builds) -> Builds:
    installed.use("1.0.1")
    return installed


@pytest.fixture
def broken(builds: Builds, request: pytest.FixtureRequest) -> Path:
    """The package of a third build, to be broken in a way of the test's own."""
    return builds.make(f"broken-{request.node.name.replace('[', '-').replace(']', '').replace(' ', '-')}")


@pytest.fixture
def other(builds: Builds, broken: Path) -> Path:
    """A build whose ingress has other code."""
    with (broken / "ingress" / "door.py").open("a") as file:
        file.write("\n# another one\n")
    return broken
