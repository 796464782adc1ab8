"""Worlds around an engine, closed at the end of their test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_world import Add, Build, World

from holdfast import Job


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    worlds: list[World] = []

    def make(job: type[Job] = Add, **options: Any) -> World:
        worlds.append(World(tmp_path, job, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()
