"""Running the real command against a folder of its own, beside stand-ins for the supervisor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import holdfast

STANDIN = str(Path(__file__).parent / "daemon_standin.py")
SOURCES = str(Path(holdfast.__file__).parents[1])

APP = """
from holdfast import Daemon, Job

class Fee(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "sqlite:///fee.db"

    def handle(self, message, db):
        return "TRUE"

if __name__ == "__main__":
    Daemon(Fee).main()
"""


@dataclass
class Bench:
    """A folder with an app, and what runs for it."""

    folder: Path
    port: int
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def app(self, text: str = APP) -> None:
        (self.folder / "fee.py").write_text(text.replace("{port}", str(self.port)))

    def toml(self, text: str) -> None:
        (self.folder / "holdfast.toml").write_text(text)

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
        # The user by environment, so that every command of the tests says what it says as any user.
        mine = {"HOLDFAST_USER": "root"} if os.geteuid() == 0 else {}
        places = {"HOLDFAST_RUN_DIR": str(self.run_dir), "HOLDFAST_STATE_DIR": str(self.folder / "state"), "HOME": str(self.folder)}
        return kept | mine | places | {"PYTHONPATH": SOURCES, "PYTHONDONTWRITEBYTECODE": "1"} | self.environ

    def holdfast(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "holdfast", *words]
        return subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=60, check=False)

    def python(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=60, check=False)

    def daemon(self, answers: dict[str, Any] | None = None, app: str | None = None) -> subprocess.Popen[str]:
        """A stand-in that runs and answers so."""
        own = str(self.folder / "fee.py") if app is None else app
        command = [sys.executable, STANDIN, str(self.run_dir), "fee", own, json.dumps({"stop": [{"exit": 0}], **(answers or {})})]
        process = subprocess.Popen(command, env=self.environment(), stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    def asked(self) -> list[dict[str, Any]]:
        path = self.run_dir / "asked"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def close(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
