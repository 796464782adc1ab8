"""The private servers of a test run, by the same script that anybody can use."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from holdfast.testing import eventually

SCRIPT = Path(__file__).parents[1] / "scripts" / "services"


class Services:
    """The private servers of this run. A server that cannot be had is a failure, never a skip."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._urls: dict[str, str] = {}

    def run(self, verb: str, name: str) -> dict[str, dict[str, str]]:
        """start, stop, kill or status."""
        words = [sys.executable, str(SCRIPT), verb, name, "--directory", str(self.directory), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        told: dict[str, dict[str, str]] = json.loads(done.stdout)
        return told

    def end_gently(self, name: str) -> None:
        """SIGTERM, and wait for its end; the data are kept."""
        os.kill(int(self.run("status", name)[name]["pid"]), signal.SIGTERM)
        eventually(lambda: not self.run("status", name), f"{name} has stopped", 120)

    def control(self, *words: str) -> None:
        """rabbitmqctl, at the broker of this run."""
        command = [sys.executable, str(SCRIPT), "ctl", *words, "--directory", str(self.directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def url(self, name: str) -> str:
        """The URL of a server that runs; started when it does not. HOLDFAST_TEST_MARIADB=URL is another one, such as MySQL."""
        if other := os.environ.get(f"HOLDFAST_TEST_{name.upper()}"):
            return other
        if name not in self._urls:
            self._urls[name] = self.run("start", name)[name]["url"]
        return self._urls[name]

    def stop(self) -> None:
        """Stop those that were started through this object."""
        for name in self._urls:
            self.run("stop", name)
