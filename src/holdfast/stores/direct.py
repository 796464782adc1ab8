"""Statements that give no rows, straight to the driver: SQLAlchemy takes three times as long as SQLite itself to insert a row.

Only what cannot be told from the long way goes this one; `Direct.open` says when that is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, ResourceClosedError


class Written:
    """The result of a statement that gives no rows: what SQLAlchemy's CursorResult says of such a one."""

    __slots__ = ("lastrowid", "rowcount")

    returns_rows = False
    closed = True

    def __init__(self, rowcount: int, lastrowid: Any) -> None:
        self.rowcount = rowcount
        self.lastrowid = lastrowid

    def close(self) -> None:
        """It is closed."""

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ResourceClosedError(f"the statement gave no rows, so there is no {name} of its result")


class Direct:
    """The driver's side of one transaction.

    `listeners` is how many of the store itself listen to the statements of this connection; `before` and `after` do the same
    here, and `failed` what the store does about errors. Who else listens is looked for once, when the transaction begins.
    """

    def __init__(
        self,
        connection: Connection,
        listeners: int,
        failed: Callable[[BaseException], None],
        before: Callable[[str], None] | None = None,
        after: Callable[[str], None] | None = None,
    ) -> None:
        self._connection = connection
        heard = connection.dispatch
        self._alone = len(heard.before_cursor_execute) + len(heard.after_cursor_execute) == listeners
        self._failed = failed
        self._before = before
        self._after = after
        self._cursor = connection.connection.cursor()
        self._last = operator.attrgetter("lastrowid") if hasattr(self._cursor, "lastrowid") else lambda _cursor: None

    def open(self) -> bool:
        """Whether a statement may go this way: in the transaction itself, not in a savepoint, and nobody but us listens to statements."""
        connection = self._connection
        return self._alone and connection.in_transaction() and not connection.in_nested_transaction()

    def execute(self, sql: str, values: Sequence[Any], *, many: bool = False) -> Written:
        """Run it, once or for each of many; raises what SQLAlchemy would raise."""
        cursor = self._cursor
        if many and len(values) == 1:  # so does SQLAlchemy
            many, values = False, values[0]
        try:
            if self._before is not None:
                self._before(sql)
            if many:
                cursor.executemany(sql, values)
            else:
                cursor.execute(sql, values)
            if self._after is not None:
                self._after(sql)
        except Exception as error:
            self._failed(error)
            self._raise(error, sql, values, many)
        return Written(cursor.rowcount, self._last(cursor))

    def _raise(self, error: Exception, sql: str, values: Sequence[Any], many: bool) -> NoReturn:
        """As SQLAlchemy tells it. A connection that is lost is not used again."""
        connection, dialect = self._connection, self._connection.dialect
        kind = dialect.loaded_dbapi.Error
        if not isinstance(error, kind):
            raise error
        lost = dialect.is_disconnect(error, connection.connection.dbapi_connection, self._cursor)
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql,
            values,
            error,
            kind,
            hide_parameters=connection.engine.hide_parameters,
            connection_invalidated=lost,
            dialect=dialect,
            ismulti=many,
        ) from error
