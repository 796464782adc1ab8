"""Every kind of database, each test with one of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from holdfast.stores import open_store
from holdfast.testing.databases import Databases

KINDS = ["sqlite", "mariadb", "postgresql"]
SERVERS = ["mariadb", "postgresql"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, databases: Databases) -> str:
    return databases.lend(kind)


@pytest.fixture
def opened(url: str) -> Iterator[Callable[..., Any]]:
    """Open the store once more, as another process would; all are closed at the end."""
    made: list[Any] = []

    def build(job: str = "Fee", timeout: float = 9.0) -> Any:
        made.append(open_store(url, job, threads=1, timeout=timeout))
        return made[-1]

    yield build
    for one in made:
        one.close()


@pytest.fixture
def store(opened: Callable[..., Any]) -> Any:
    one = opened()
    one.install("", lambda db: None)
    return one


@pytest.fixture
def connect(store: Any) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def build(other: Any = None) -> Any:
        made.append((other or store).connect())
        return made[-1]

    yield build
    for one in made:
        with suppress(Exception):
            one.close()
