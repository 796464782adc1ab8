"""Builds of Holdfast to upgrade to, and daemons that are upgraded: what several files look at."""

from collections.abc import Callable
from pathlib import Path

from holdfast.linux import process
from holdfast.testing.builds import Builds
from holdfast.testing.crowd import Crowd
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]
TWO = 'probation = "0s"\n[jobs.Add]\nprocesses = 2\n'


def use(builds: Builds, package: Path) -> None:
    builds.use(next(one for one in package.relative_to(builds.folder).parts))


def pids(daemon: DaemonProcess) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


def named(daemon: DaemonProcess, kind: str) -> list[int]:
    """Processes of this kind, by the command line."""
    return [pid for pid in daemon.processes() if kind in process.command_line(pid)]


def ingresses(daemon: DaemonProcess) -> list[int]:
    return named(daemon, "ingress")


def count(crowd: Crowd) -> None:
    """Wait until the load has gone on for a while."""
    before = crowd.answered
    eventually(lambda: crowd.answered > before + 20, "the load goes on")
