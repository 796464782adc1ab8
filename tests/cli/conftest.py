"""A bench for each test."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_kit import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        made = Bench(tmp_path, probe.getsockname()[1])
    made.app()
    yield made
    made.close()
