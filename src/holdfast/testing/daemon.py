"""A real daemon in a private folder, for tests from outside."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PATIENCE = 60.0
_APART = 16


_given: deque[int] = deque(maxlen=100)  # ports that may not be in use yet


def free_port() -> int:
    """A loopback port that nobody uses just now, and that no outgoing connection is given: it is none of the ephemeral ones.

    Nor is it one that was given a while ago; and test processes that run side by side choose among others, as their PIDs differ.
    """
    choose = random.SystemRandom()  # test runners seed the common one: two of them would choose alike
    while True:
        port = choose.randrange(10_000 + os.getpid() % _APART, _ephemeral(), _APART)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.append(port)
        return port


def _ephemeral() -> int:
    """Where the kernel's range of ports for outgoing connections begins (ip(7), ip_local_port_range); 32768 unless it was changed."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return first if first > 12_000 else 32_768


def eventually(look: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """What `look` gives once it is true; AssertionError when it is not in time. Looks every few milliseconds."""
    limit = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < limit, f"not in {patience:g} s: {what}"
        time.sleep(0.005)
    return found


class DaemonProcess:
    """`holdfast` commands for one app in one folder. As a context manager it sees to it that nothing is left.

    It has 90 s to start, unless `toml` says otherwise: a machine that runs tests may have much else to do.
    """

    def __init__(
        self, folder: Path, app: str, *, toml: str = "", environ: Mapping[str, str] | None = None, python: str = sys.executable
    ) -> None:
        self.folder = folder
        self.python = python  # whose installation of holdfast is meant
        self.file = folder / "app.py"
        self.file.write_text(app)
        user = 'user = "root"\n' if os.geteuid() == 0 and "user =" not in toml else ""
        limit = 'start_timeout = "90s"\n' if "start_timeout" not in toml else ""
        head = f'[daemon]\nname = "t"\napp = "app.py"\nrun_dir = "run"\nstate_dir = "state"\n{user}{limit}'
        self.toml = folder / "holdfast.toml"
        self.toml.write_text(head + toml)
        mine = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        slow = {} if "start_timeout" in toml else {"HOLDFAST_START_TIMEOUT": f"{PATIENCE:g}s"}  # on a loaded machine
        self.environ = {**mine, **slow, "TEST_DAEMON": str(folder), **(environ or {})}

    def __enter__(self) -> DaemonProcess:
        return self

    def __exit__(self, *_error: object) -> None:
        self.run("stop", "--now")

    def command(self, *words: str) -> list[str]:
        """The command line of a verb."""
        return [self.python, "-m", "holdfast", words[0], str(self.toml), *words[1:]]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(self.command(*words), env=self.environ, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)

    def start(self) -> None:
        """Start it; AssertionError, with what it said, when it does not."""
        told = self.run("start")
        assert told.returncode == 0, told.stderr + told.stdout + self.log()

    def ask(self, verb: str, **more: Any) -> dict[str, Any]:
        """A verb on the control socket, without the cost of a command."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            folder = os.open(self.folder / "run", os.O_RDONLY)
            try:
                control.connect(f"/proc/self/fd/{folder}/t.sock")
            finally:
                os.close(folder)
            control.sendall(json.dumps({"verb": verb, **more}).encode() + b"\n")
            with control.makefile("rb") as stream:
                lines = stream.read().splitlines()
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer

    def status(self) -> dict[str, Any]:
        """What `status --json` prints."""
        result: dict[str, Any] = self.ask("status")["result"]
        return result

    def workers(self, state: str = "active") -> list[dict[str, Any]]:
        """Workers of all jobs in this state."""
        return [worker for job in self.status()["jobs"] for worker in job["workers"] if worker["state"] == state]

    @property
    def pid(self) -> int:
        """The supervisor's PID, from the PID file."""
        return int((self.folder / "run" / "t.pid").read_text())

    def processes(self) -> dict[int, str]:
        """Every live process of this daemon: PID -> name, found by its session's environment and by descent."""
        found: dict[int, str] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and _mark(entry, self.folder):
                found[int(entry)] = _name(entry)
        return found

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process of this daemon."""
        assert pid in self.processes(), f"{pid} is none of this daemon's"
        os.kill(pid, number)

    def log(self) -> str:
        """What was logged so far."""
        path = self.folder / "state" / "t.log"
        return path.read_text() if path.exists() else ""


def _mark(entry: str, folder: Path) -> bool:
    """Whether the process has this daemon's folder as mark: in its environment, which every descendant inherits."""
    try:
        environ = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        zombie = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return False
    return not zombie and f"TEST_DAEMON={folder}".encode() in environ


def _name(entry: str) -> str:
    try:
        return Path(f"/proc/{entry}/comm").read_text().strip()
    except OSError:
        return ""
