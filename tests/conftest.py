"""Real servers for the tests that need them, started once; and how properties are tried."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from holdfast.testing.databases import Databases
from servers_kit import Services

# The same examples in every run, whatever the speed of the machine; `--hypothesis-profile explore` looks for others.
# What it would explain of a failure costs a traced run, which takes minutes.
_HOW: Any = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
    "phases": [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
}
settings.register_profile("repeatable", derandomize=True, **_HOW)
settings.register_profile("explore", **_HOW)
settings.load_profile("repeatable")


@pytest.fixture
def open_path(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test's own folder, which everybody may enter: it, and those above it that pytest has made."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    for folder in (tmp_path, *tmp_path.parents):
        if folder.is_relative_to(run) or folder.name.startswith("pytest-of-"):
            folder.chmod(0o755)
    return tmp_path


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Those of HOLDFAST_TEST_SERVICES, a directory, where ./scripts/test has named one; else of this run alone.

    Of several test processes each has servers of its own: a test may kill them.
    """
    given = os.environ.get("HOLDFAST_TEST_SERVICES")
    if given:
        yield Services(Path(given) / os.environ.get("PYTEST_XDIST_WORKER", ""))
        return
    directory = Path(tempfile.mkdtemp(prefix="holdfast-services-"))
    own = Services(directory)
    try:
        yield own
    finally:
        own.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def databases(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Databases for tests, dropped at the end."""
    with Databases(services.url, tmp_path_factory.mktemp("databases")) as made:
        yield made
