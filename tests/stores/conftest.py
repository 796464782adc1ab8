"""Every kind of database, each test with one of its own.

HOLDFAST_TEST_MYSQL=mysql+mysqldb runs those of MariaDB with mysqlclient, where it is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy

from holdfast.stores import open_store
from holdfast.testing.databases import Databases, query

KINDS = ["sqlite", "mariadb", "postgresql"]
SERVERS = ["mariadb", "postgresql"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, databases: Databases) -> str:
    address = databases.lend(kind)
    return address.replace("mysql:", f"{os.environ.get('HOLDFAST_TEST_MYSQL', 'mysql')}:", 1)


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


@pytest.fixture
def guest(kind: str, databases: Databases, url: str) -> Iterator[Callable[..., str]]:
    """The URL of the database for a user of few rights."""
    made = []

    def make(limit: int = 0, at: str = url) -> str:
        place = sqlalchemy.make_url(at)
        if kind == "postgresql":
            databases.administer(kind, f"CREATE ROLE guest LOGIN PASSWORD 'g' CONNECTION LIMIT {limit or -1}")
        else:
            limits = f" WITH MAX_USER_CONNECTIONS {limit}" if limit else ""
            databases.administer(
                kind,
                f"CREATE USER guest@'127.0.0.1' IDENTIFIED BY 'g'{limits}",
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON {place.database}.* TO guest@'127.0.0.1'",
            )
        made.append(1)
        return place.set(username="guest", password="g").render_as_string(hide_password=False)

    yield make
    if made:
        if kind == "postgresql":
            query(url, "DROP OWNED BY guest")
        databases.administer(kind, "DROP USER guest" + ("@'127.0.0.1'" if kind == "mariadb" else ""))
