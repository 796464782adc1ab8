"""Real servers for the tests that need them: started once, by the same script that anybody can use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.testing.databases import Databases

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

    def url(self, name: str) -> str:
        """The URL of a server that runs; started when it does not."""
        if name not in self._urls:
            self._urls[name] = self.run("start", name)[name]["url"]
        return self._urls[name]


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Those of HOLDFAST_TEST_SERVICES, a directory, where ./scripts/test has named one; else of this run alone."""
    given = os.environ.get("HOLDFAST_TEST_SERVICES")
    if given:
        yield Services(Path(given))
        return
    directory = Path(tempfile.mkdtemp(prefix="holdfast-services-"))
    own = Services(directory)
    try:
        yield own
    finally:
        for name in own._urls:
            own.run("stop", name)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def databases(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Databases for tests, dropped at the end."""
    with Databases(services.url, tmp_path_factory.mktemp("databases")) as made:
        yield made
