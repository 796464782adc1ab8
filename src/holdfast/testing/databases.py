"""Databases of one's own for a test: a file, or a fresh database on a server, dropped at the end."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy

_DRIVERS = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}


class Databases:
    """Makes databases; `server` gives the URL of a running server by its name. As a context manager it drops them."""

    def __init__(self, server: Callable[[str], str], folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._made: list[tuple[str, str]] = []
        self._lent: dict[str, str] = {}

    def __enter__(self) -> Databases:
        return self

    def __exit__(self, *_error: object) -> None:
        for kind, name in self._made:
            force = " WITH (FORCE)" if kind == "postgresql" else ""
            with suppress(sqlalchemy.exc.DBAPIError):
                self.administer(kind, f"DROP DATABASE {name}{force}")

    def make(self, kind: str) -> str:
        """The URL of an empty database: sqlite, or one on the server of this name."""
        name = f"t{uuid.uuid4().hex[:12]}"
        if kind == "sqlite":
            return f"sqlite:///{self._folder}/{name}.db"
        self.administer(kind, f"CREATE DATABASE {name}")
        self._made.append((kind, name))
        return f"{self._server(kind).rpartition('/')[0]}/{name}"

    def lend(self, kind: str) -> str:
        """The URL of a database that is emptied and lent again: much cheaper than one that is made and dropped."""
        url = self._lent.get(kind) or self._lent.setdefault(kind, self.make(kind))
        if kind == "sqlite":
            return self.make(kind)
        schema = "DATABASE()" if kind == "mariadb" else "current_schema()"
        tables = [row[0] for row in query(url, f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema}")]
        query(url, *(f"DELETE FROM {name}" if name.startswith("holdfast_") else f"DROP TABLE {name}" for name in tables))
        return url

    def administer(self, kind: str, *statements: str) -> list[Any]:
        """Run statements on the server itself; the rows of the last."""
        return query(self._server(kind), *statements)


def query(url: str, *statements: str) -> list[Any]:
    """Run statements, each committed at once; the rows of the last one, if it has any."""
    address = sqlalchemy.make_url(url)
    engine = sqlalchemy.create_engine(
        address.set(drivername=_DRIVERS.get(address.drivername, address.drivername)),
        poolclass=sqlalchemy.pool.NullPool,
        isolation_level="AUTOCOMMIT",
    )
    rows: list[Any] = []
    try:
        with engine.connect() as connection:
            for statement in statements:
                result = connection.exec_driver_sql(statement)
                rows = [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()
    return rows
