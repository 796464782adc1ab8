"""`db`, as handlers get it: this batch's transaction on this thread's own connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql import Executable

from holdfast.errors import HoldfastError
from holdfast.stores.direct import Direct
from holdfast.stores.outbox import Outbox
from holdfast.stores.statements import Statement, parse
from holdfast.telemetry import events

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class HandlersConnection:
    """The SQLAlchemy Core connection without the ways to end its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        if name in {"commit", "rollback", "close", "begin", "invalidate", "detach"}:
            raise HoldfastError(
                f"handlers do not call {name}() on db.connection", remedy="return, or raise Retry or Reject, to end the work"
            )
        return getattr(self._connection, name)


class Database:
    """Executes statements inside the transaction that is open now."""

    def __init__(self, connection: Connection, outbox: Outbox | None = None, direct: Direct | None = None) -> None:
        self._connection = connection
        self._direct = direct
        self._outbox = outbox or Outbox("")
        self.published = False  # whether something waits in the outbox for this transaction's commit
        self._dialect = "mysql" if connection.dialect.name == "mariadb" else connection.dialect.name
        self.touched = False
        self.broken = ""  # what a handler did to the transaction
        self.lost: BaseException | None = None  # an error that ended it; catching that does not help
        self._inside: NestedTransaction | None = None  # the savepoint of ours that is open
        self._sessions: list[Session] = []  # of this message

    def execute(
        self, statement: str | Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> CursorResult[Any]:
        """Run a statement with `:name` parameters, or any SQLAlchemy construct. A list of parameters runs it for each of them.

        An INSERT or REPLACE … VALUES with a list goes to a server as statements of many rows; the result is that of the last one.
        A string that gives no rows goes straight to the driver; its result has `rowcount` and `lastrowid`.
        """
        self.touched = True
        if not isinstance(statement, str):
            return self._connection.execute(statement, parameters)
        parsed = parse(statement, self._dialect)
        if type(parameters) is not dict and isinstance(parameters, Sequence):  # asking the abstract class takes a microsecond
            return self._many(statement, parsed, parameters)
        sql, values = parsed.bind(parameters or {})
        return self._send(parsed, sql, values)

    def _send(self, parsed: Statement, sql: str, values: Any, *, many: bool = False) -> CursorResult[Any]:
        direct = self._direct
        if parsed.writes and direct is not None and direct.open():
            return cast("CursorResult[Any]", direct.execute(sql, values, many=many))
        return self._connection.exec_driver_sql(sql, values)

    def _many(self, statement: str, parsed: Statement, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        if not rows:
            raise HoldfastError("execute got an empty list of parameters", remedy="leave the call out when there is nothing to do")
        if self._dialect == "sqlite":  # no network between: its driver's loop is as fast
            return self._send(parsed, parsed.plain, [parsed.values(row) for row in rows], many=True)
        if parsed.rows is None:
            _say_once(statement)
            return self._send(parsed, parsed.plain, [parsed.values(row) for row in rows], many=True)
        for sql, values in parsed.many(rows, self._dialect):
            result = self._send(parsed, sql, values)
        return result

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What happens inside is undone alone when it raises; the error may be caught outside."""
        before, outer, sessions = self.broken, self._inside, len(self._sessions)
        try:
            with self._connection.begin_nested() as self._inside:
                yield
                self.broken = self.broken or self.loose_end()
        except BaseException:
            self.broken = before
            del self._sessions[sessions:]
            raise
        finally:
            self._inside = outer

    def session(self) -> Session:
        """An ORM session joined by savepoint: its commit and rollback end that savepoint only.

        What it holds when the handler returns is written then, as if the handler had committed it.
        """
        from sqlalchemy.orm import Session

        self.touched = True
        self._sessions.append(Session(bind=self._connection, join_transaction_mode="create_savepoint"))
        return self._sessions[-1]

    def begin_message(self) -> None:
        """Another handler is about to run."""
        self.touched = False
        self._sessions.clear()

    def loose_end(self) -> str:
        """End the sessions that the handler left open; empty unless something is open still, which a later message could undo."""
        while self._sessions:
            session = self._sessions.pop()
            try:
                session.commit()
            except Exception as error:
                return f"the ORM session could not be written: {error}"
            finally:
                session.close()
        if self._connection.get_nested_transaction() is not self._inside:
            return "the handler left a savepoint open"
        return ""

    def publish(
        self,
        url: str,
        body: bytes | str,
        *,
        key: str = "",
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> None:
        """Send a message to a broker when, and only when, this transaction commits.

        `url` is amqp://HOST:PORT/VHOST?exchange=NAME, with `key` as the routing key, or …?queue=NAME; user and password come from the
        job's `outbox` or `source`. The message is durable, and stays in the outbox until the broker has confirmed it. It may come twice,
        with the same message_id (one of its own by default). Messages with the same key come in the order of their commits.
        HoldfastError at once for what could never be sent.
        """
        self.touched = True
        self._outbox.put(self._connection, url, body, key, headers, message_id)
        self.published = True

    @property
    def connection(self) -> HandlersConnection:
        """The SQLAlchemy Core connection of this transaction."""
        self.touched = True
        return HandlersConnection(self._connection)


@lru_cache(maxsize=1024)
def _say_once(statement: str) -> None:
    events.log("statement.row-by-row", f"goes to the server once for each parameter set: {' '.join(statement.split())[:200]}")
