"""What the database servers have in common: one connection a thread, which is checked, recycled, replaced; sessions that are ended.

A connection that was lost may have left its session behind at the server: with its locks, perhaps in the middle of a COMMIT. Before
anything is tried again, that session is ended and seen gone; only then does the inbox know what has happened.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.pool import NullPool

from holdfast.errors import AppError, UnavailableError
from holdfast.model.pace import Pace, recycle_at
from holdfast.stores.base import Fault
from holdfast.stores.direct import Direct
from holdfast.stores.guard import refusal
from holdfast.stores.hold import SessionHold
from holdfast.stores.inbox import Cleaning, Inbox, Old
from holdfast.stores.letters import PART, StoredLetters
from holdfast.stores.outbox import Outbox
from holdfast.stores.statements import own, split
from holdfast.stores.transaction import CoreTransaction
from holdfast.telemetry import events

R = TypeVar("R")

CHECK_AFTER = 1.0  # idle for longer, a connection is asked before it is used
LIFETIME = 3600.0
GONE_WITHIN = 5.0  # a session that was ended
_AT_ONCE, _BURST, _A_SECOND = 8, 16, 50.0
_PROBE_BYTES = 256 << 10
_MAKES = re.compile(r"\s*CREATE\s+(?:TABLE|INDEX|UNIQUE\s+INDEX)\s+(?:IF\s+NOT\s+EXISTS\s+)?(\S+)", re.IGNORECASE)


class Refused(Exception):
    """What a handler may not send."""


class OrphanError(Exception):
    """The session of a lost connection is still there."""


class ServerStore:
    """One database of a server, as seen by one process. What differs is in `holdfast.stores.mysql` and `.postgresql`."""

    scheme = ""
    one_writer = False
    tables: tuple[str, ...] = ()
    inbox: type[Inbox] = Inbox
    listeners = 1  # to the statements of a connection

    def __init__(self, url: sqlalchemy.URL, job: str, timeout: float, **arguments: Any) -> None:
        self.job = job
        self.outbox = Outbox(job)
        self.timeout = timeout
        self.engine = sqlalchemy.create_engine(url, poolclass=NullPool, **arguments)
        self._at_once = threading.BoundedSemaphore(_AT_ONCE)
        self._pace = Pace(_BURST, _A_SECOND)
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._cleaning = Cleaning(job)
        event.listen(self.engine, "handle_error", _note_error)
        event.listen(self.engine, "before_cursor_execute", _refuse)

    # Each database's own

    def fault(self, error: BaseException) -> Fault:
        raise NotImplementedError

    def destroys(self, error: BaseException) -> bool:
        """Whether the error ends the transaction, savepoints and all."""
        return self.fault(error) is Fault.LOST

    def denied(self, error: BaseException) -> bool:
        """Whether the error says that the user may not."""
        raise NotImplementedError

    def mark(self, core: sqlalchemy.Connection) -> str:
        """By which a session of ours can be found at the server by another one."""
        raise NotImplementedError

    def end_session(self, core: sqlalchemy.Connection, mark: str) -> bool:
        """Ask the server to end the session; True when it is not there any more."""
        raise NotImplementedError

    def whole(self, core: sqlalchemy.Connection) -> str:
        """What the driver knows against the transaction that is open; empty when nothing. No round trip."""
        raise NotImplementedError

    def watch(self, transaction: ServerTransaction, core: sqlalchemy.Connection) -> Callable[[str], None] | None:
        """What looks at the driver after each statement, where something has to."""
        return None

    def lock_for(self, core: sqlalchemy.Connection, name: str) -> bool:
        """Take a lock that ends with the transaction, or soon after; False when another host has it."""
        raise NotImplementedError

    def limit_idle(self, core: sqlalchemy.Connection, seconds: float) -> None:
        """Have the server end the session when it says nothing for so long."""
        raise NotImplementedError

    def server_findings(self, core: sqlalchemy.Connection, connections: int) -> Iterator[str]:
        raise NotImplementedError

    # What a worker asks

    def connect(self) -> ServerConnection:
        """Open one thread's connection; the database's own error when it cannot be had."""
        return ServerConnection(self)

    def open(self) -> sqlalchemy.Connection:
        """A new session; at most so many at once, and so many a second, from each process."""
        with self._lock:
            wait = self._pace.wait(time.monotonic())
        time.sleep(wait)
        with self._at_once:
            return self.engine.connect()

    def letters(self) -> StoredLetters:
        return StoredLetters(self.once, self.once)

    def once(self, work: Callable[[sqlalchemy.Connection], R]) -> R:
        """Run something in a session and a transaction of its own."""
        core = self.open()
        try:
            with core.begin():
                return work(core)
        finally:
            core.close()

    def install(self, schema: str, prepare: Any) -> None:
        """Make our tables, then the job's; one process at a time. What is there already needs no right to make it."""
        connection = self.connect()
        try:
            with _installing(self):
                for sql in (*self.tables, *split(schema, self.scheme)):
                    self._make(connection.core, sql)
                self._prepare(connection, prepare)
        finally:
            connection.close()

    def _make(self, core: sqlalchemy.Connection, sql: str) -> None:
        try:
            with core.begin():
                core.exec_driver_sql(sql.replace("%", "%%").rstrip().removesuffix(";"))
        except sqlalchemy.exc.DBAPIError as error:
            if self.denied(error) and self._is_there(core, sql):
                return
            self._cannot_make(error, sql)

    def _is_there(self, core: sqlalchemy.Connection, sql: str) -> bool:
        made = _MAKES.match(sql)
        table = re.search(r"\bON\s+(\w+)", sql, re.IGNORECASE) if made and "INDEX" in made[0].upper() else made
        if table is None:
            return False
        with contextlib.suppress(sqlalchemy.exc.DBAPIError), core.begin():
            core.exec_driver_sql(f"SELECT 1 FROM {table[1].partition('(')[0]} WHERE 1 = 0")
            return True
        return False

    def _prepare(self, connection: ServerConnection, prepare: Any) -> None:
        transaction = connection.begin()
        try:
            prepare(transaction.db)
            transaction.commit()
        except sqlalchemy.exc.DBAPIError as error:
            transaction.rollback()
            self._cannot_make(error, "prepare()")
        except BaseException:
            transaction.rollback()
            raise

    def _cannot_make(self, error: sqlalchemy.exc.DBAPIError, sql: str) -> None:
        if self.fault(error) in (Fault.AWAY, Fault.LOST):
            raise UnavailableError(f"the store cannot be used: {error.orig}", where="store") from error
        raise AppError(f"the tables could not be made: {error.orig}", where="schema", remedy=f"this is the statement:\n{sql}") from error

    def findings(self, connections: int = 0) -> list[str]:
        try:
            return self.once(lambda core: list(self.server_findings(core, connections)))
        except sqlalchemy.exc.DBAPIError as error:
            raise UnavailableError(f"the store cannot be looked at: {error.orig}", where="store") from error

    def clean(self, older_than: float, most: int) -> int:
        with self._sweeping:
            old = self.once(lambda core: self._cleaning.look(core, older_than, most))
            return self.once(lambda core: self._forget(core, old)) if old.inbox or old.batch else 0

    def _forget(self, core: sqlalchemy.Connection, old: Old) -> int:
        """One host at a time; the lock of MariaDB goes with its session, which `once` closes."""
        return self._cleaning.forget(core, old) if self.lock_for(core, f"clean {self.job}") else 0

    def work(self, what: Any) -> Any:
        return self.once(what)

    def hold(self, name: str) -> SessionHold | None:
        return SessionHold.take(self, name)

    def close(self) -> None:
        self.engine.dispose()


class ServerConnection:
    """One thread's connection; see `holdfast.stores.base.Connection`."""

    def __init__(self, store: ServerStore) -> None:
        self.store = store
        self.current: ServerTransaction | None = None
        self._orphans: list[str] = []
        self._core: sqlalchemy.Connection | None = None
        self._mark = ""
        self._used_at = self._until = 0.0
        self._connect()

    @property
    def core(self) -> sqlalchemy.Connection:
        """The session that is open."""
        assert self._core is not None
        return self._core

    def begin(self) -> ServerTransaction:
        """Begin; a connection that is old, or does not answer after a rest, is replaced before."""
        now = time.monotonic()
        if self._core is not None and (now >= self._until or (now - self._used_at > CHECK_AFTER and not self._answers())):
            self._drop()
        if self._core is None:
            self._connect()
        self.current = ServerTransaction(self, self.core, self.store.inbox(self.core, self.store.job))
        return self.current

    def _connect(self) -> None:
        core = self.store.open()
        try:
            mark = self.store.mark(core)
            self._end_orphans(core)
            core.rollback()
        except BaseException:
            with contextlib.suppress(Exception):
                core.close()
            raise
        core.info["holdfast"] = self
        self._core, self._mark = core, mark
        self._used_at = time.monotonic()
        self._until = recycle_at(self._used_at, LIFETIME, random.random())

    def _end_orphans(self, core: sqlalchemy.Connection) -> None:
        """End the sessions of connections that were lost, and see them gone."""
        limit = time.monotonic() + GONE_WITHIN
        while self._orphans:
            if self.store.end_session(core, self._orphans[0]):
                events.log("session.ended", "the session of a lost connection is gone", mark=self._orphans.pop(0))
                continue
            core.rollback()
            if time.monotonic() > limit:
                raise OrphanError("the server does not end the session of a lost connection")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            with self.core.begin():
                self.core.exec_driver_sql("SELECT 1")
        except Exception:
            return False
        return True

    def _drop(self, orphan: bool = False) -> None:
        """Let the session go; one that may still be at work is to be ended before the next is used."""
        core, self._core = self._core, None
        if orphan:
            self._orphans.append(self._mark)
        if core is None:
            return
        with contextlib.suppress(Exception):
            core.info.pop("holdfast", None)
        with contextlib.suppress(Exception):
            if orphan:
                core.invalidate()
        with contextlib.suppress(Exception):
            core.close()

    def ended(self, *, orphan: bool, failed: bool) -> None:
        """The transaction is over. After weather the connection is not used again."""
        self.current = None
        self._used_at = time.monotonic()
        if failed or orphan:
            self._drop(orphan)

    def probe(self) -> None:
        """Write on a fresh connection, and take it back: read-only servers and full disks take connections, too."""
        if self.current is not None:
            self.current.rollback()
        self._drop()
        transaction = self.begin()
        try:
            sql = "INSERT INTO holdfast_dead_body (letter, part, data) VALUES (?, ?, ?)"
            own(self.core, sql, (os.urandom(8).hex(), 0, os.urandom(min(_PROBE_BYTES, PART))))
        finally:
            transaction.rollback()

    def close(self) -> None:
        if self.current is not None:
            self.current.rollback()
        self._drop()


class ServerTransaction(CoreTransaction):
    """One batch; see `holdfast.stores.base.Transaction`."""

    def __init__(self, connection: ServerConnection, core: sqlalchemy.Connection, box: Inbox) -> None:
        self._connection = connection
        self._store = connection.store
        self._weather: Fault | None = None
        super().__init__(core, box, connection.store.outbox)

    def _direct(self, core: sqlalchemy.Connection) -> Direct:
        store = self._store
        return Direct(core, store.listeners, self.failed, self.refuse, store.watch(self, core))

    def refuse(self, statement: str) -> None:
        """Raise Refused for what a handler may not send."""
        why = refusal(statement, self._store.scheme) if self.handling else ""
        if why:
            self.db.broken = self.db.broken or why
            raise Refused(why)

    def failed(self, error: BaseException) -> None:
        """A statement failed: unless that leaves the handler, or a savepoint, the handler has swallowed it."""
        fault = self._store.fault(error)
        if fault is not Fault.MESSAGE:
            self._weather = Fault.LOST if self._weather is Fault.LOST else fault
        if self._store.destroys(error):
            self.db.lost = self.db.lost or error
        if self.handling and not self.ending:
            self.db.broken = self.db.broken or f"the handler swallowed a database error: {error}"

    def proof(self) -> str:
        if self.db.lost is not None:
            return f"the transaction is gone: {self.db.lost}"
        if self.db.broken:
            return self.db.broken
        if not self._transaction.is_active:
            return "the handler ended the transaction"
        if self._core.get_transaction() is not self._transaction:
            return "the handler replaced the transaction"
        self.db.broken = self._store.whole(self._core) or self.db.loose_end()
        return self.db.broken or self._store.whole(self._core)

    def commit(self) -> None:
        self.ending, self.handling = True, False
        try:
            self._transaction.commit()
        except BaseException as error:
            # Whether it has happened is not known, unless the server was there to say no.
            fault = self._store.fault(error)
            self._connection.ended(orphan=fault is Fault.LOST or not isinstance(error, Exception), failed=True)
            raise
        self._connection.ended(orphan=False, failed=False)
        self.wake_outbox()

    def rollback(self) -> None:
        """Roll back; harmless when it is over already."""
        if self.ending:
            return
        self.ending, self.handling = True, False
        orphan = self._weather is Fault.LOST
        try:
            if not orphan:  # who does not answer would not answer to this either
                self._transaction.rollback()
        except Exception:
            orphan = True
        self._connection.ended(orphan=orphan, failed=self._weather is not None)


@contextmanager
def _installing(store: ServerStore) -> Iterator[None]:
    """One process at a time: CREATE … IF NOT EXISTS is no protection against another one's at the same moment."""
    helper = store.open()
    limit = time.monotonic() + store.timeout
    try:
        while not store.lock_for(helper, "install"):
            helper.rollback()
            if time.monotonic() > limit:
                raise UnavailableError("another process makes the tables and does not come to an end", where="store")
            time.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(Exception):
            helper.close()


def _owner(connection: sqlalchemy.Connection | None) -> ServerTransaction | None:
    try:
        holder = connection.info.get("holdfast") if connection is not None else None
    except sqlalchemy.exc.SQLAlchemyError:  # the connection is lost
        return None
    return holder.current if holder is not None else None


def _note_error(context: Any) -> None:
    owner = _owner(context.connection)
    if owner is not None:
        owner.failed(context.original_exception)


def _refuse(connection: sqlalchemy.Connection, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    owner = _owner(connection)
    if owner is not None:
        owner.refuse(statement)
