"""A `db` for unit tests of handlers: `Fee().handle(Message(b"…"), db)`."""

from __future__ import annotations

from typing import Any

from holdfast.stores import open_store
from holdfast.stores.base import Connection, Transaction


class Store:
    """What a handler gets as `db`, with a transaction that the test ends. As a context manager it commits at the end of the block.

    `install(Fee)` makes a job's own tables, as `start` does.
    """

    def __init__(self, url: str) -> None:
        self._store = open_store(url, "test")
        self._store.install("", lambda _db: None)
        self._connection: Connection = self._store.connect()
        self._transaction: Transaction = self._connection.begin()

    def install(self, job: Any) -> Store:
        """Make the tables of this Job class."""
        self._transaction.commit()
        self._store.install(job.schema, job.prepare)
        self._transaction = self._connection.begin()
        return self

    def commit(self) -> None:
        """Commit, and begin the next transaction."""
        self._transaction.commit()
        self._transaction = self._connection.begin()

    def rollback(self) -> None:
        """Undo what was not committed, and begin the next transaction."""
        self._transaction.rollback()
        self._transaction = self._connection.begin()

    def close(self) -> None:
        """Undo what was not committed, and close."""
        self._transaction.rollback()
        self._connection.close()
        self._store.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is None:
            self.commit()
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction.db, name)


def store(url: str = "sqlite://") -> Store:
    """Open a store for a test; in memory, unless the URL says otherwise."""
    return Store(url)
