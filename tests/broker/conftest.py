"""A daemon on a queue of its own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import outbox_kit
import pytest
from broker_kit import Broker, Stage

from holdfast.testing.databases import Databases
from servers_kit import Services

Make = Callable[..., Stage]


@pytest.fixture(scope="session")
def broker(services: Services) -> Broker:
    return Broker(services.url("rabbitmq"))


@pytest.fixture
def make(tmp_path: Path, broker: Broker) -> Iterator[Make]:
    made: list[Stage] = []

    def stage(**how: Any) -> Stage:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Stage(folder, broker, **how))
        return made[-1]

    yield stage
    for one in made:
        one.close()


@pytest.fixture
def teller(tmp_path: Path, broker: Broker, databases: Databases) -> Iterator[Callable[..., outbox_kit.Stage]]:
    made: list[outbox_kit.Stage] = []

    def stage(kind: str = "sqlite", **how: Any) -> outbox_kit.Stage:
        folder = tmp_path / f"teller{len(made)}"
        folder.mkdir()
        store = how.pop("store", "") or databases.make(kind)
        made.append(outbox_kit.Stage(folder, broker, store, **how))
        return made[-1]

    yield stage
    for one in made:
        one.close()
