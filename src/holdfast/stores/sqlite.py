"""SQLite: one file, one writer at a time, and every commit on the disk (WAL, synchronous FULL)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from typing import Any

import sqlalchemy
import sqlalchemy.dialects.sqlite  # else each forked worker imports it on its first engine: 17 ms
from sqlalchemy import event
from sqlalchemy.pool import NullPool, StaticPool

from holdfast.errors import AppError, ConfigurationError, UnavailableError
from holdfast.stores.base import Fault
from holdfast.stores.direct import Direct
from holdfast.stores.hold import FileHold
from holdfast.stores.inbox import Cleaning, Inbox
from holdfast.stores.letters import StoredLetters
from holdfast.stores.outbox import Outbox
from holdfast.stores.statements import own, split
from holdfast.stores.transaction import CoreTransaction
from holdfast.stores.turn import Turn

_TRANSACTION, _SAVEPOINT = 22, 32  # action codes of sqlite3_set_authorizer
_AWAY = ("unable to open", "disk is full", "disk i/o", "readonly", "read-only", "not a database", "malformed")
_TRANSIENT = ("locked", "busy")
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "glusterfs", "fuse.sshfs", "fuse.glusterfs"}

TABLES = (
    """CREATE TABLE IF NOT EXISTS holdfast_inbox (scope TEXT NOT NULL, id BLOB NOT NULL, digest BLOB NOT NULL, outcome INTEGER NOT NULL,
       answer BLOB, seen_at REAL NOT NULL, PRIMARY KEY (scope, id)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS holdfast_batch (id INTEGER PRIMARY KEY, scope TEXT NOT NULL, epoch TEXT NOT NULL, block INTEGER NOT NULL,
       data BLOB NOT NULL, seen_at REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS holdfast_batch_block ON holdfast_batch (scope, epoch, block)",
    """CREATE TABLE IF NOT EXISTS holdfast_dead (id TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
       trace TEXT NOT NULL, identity BLOB, message_id TEXT NOT NULL, headers TEXT NOT NULL, source TEXT NOT NULL, attempts INTEGER NOT NULL,
       died_at REAL NOT NULL, size INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS holdfast_dead_body (letter TEXT NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL,
       PRIMARY KEY (letter, part))""",
    """CREATE TABLE IF NOT EXISTS holdfast_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL, target TEXT NOT NULL,
       routing_key TEXT NOT NULL, message_id TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, created_at REAL NOT NULL)""",
)

_PROBES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("INSERT OR REPLACE INTO holdfast_dead_body (letter, part, data) VALUES ('probe', 0, ?)", (bytes(1 << 16),)),
    ("DELETE FROM holdfast_dead_body WHERE letter = 'probe'", ()),
)


class SqliteStore:
    """One database, as seen by one worker process."""

    scheme = "sqlite"
    one_writer = True

    def __init__(self, url: str, job: str, threads: int, timeout: float) -> None:
        self._job = job
        self.outbox = Outbox(job)
        self._threads = threads
        self._sweeping = threading.Lock()
        self._cleaning = Cleaning(job)
        self._path = url.removeprefix("sqlite://").removeprefix("/")
        if url.startswith("sqlite://") and not url.startswith("sqlite:///") and url != "sqlite://":
            raise ConfigurationError(
                f"'{url}' names a host; SQLite has none", where="store", remedy="write sqlite:///fee.db or sqlite:////var/lib/fee/fee.db"
            )
        shared = {"poolclass": NullPool} if self._path else {"poolclass": StaticPool}
        arguments = {"check_same_thread": False, "timeout": min(timeout, 30.0), "isolation_level": None}
        try:
            self._turn = Turn(f"{self._path}-holdfast.lock" if self._path else "")
        except OSError as error:
            raise UnavailableError(
                f"cannot write beside {os.path.abspath(self._path)}: {error.strerror}",
                where="store",
                remedy="make its folder, and let the user write there",
            ) from error
        self.engine = sqlalchemy.create_engine(f"sqlite:///{self._path}" if self._path else "sqlite://", connect_args=arguments, **shared)
        event.listen(self.engine, "connect", _tune)
        event.listen(self.engine, "begin", _begin_immediate)
        event.listen(self.engine, "handle_error", _note_error)

    def connect(self) -> SqliteConnection:
        """Open one thread's connection; the database's own error when it cannot be had."""
        return SqliteConnection(self.engine.connect(), self._turn, self._job, self.outbox)

    def letters(self) -> StoredLetters:
        return StoredLetters(self._read, self._once)

    def install(self, schema: str, prepare: Any) -> None:
        """Make our tables, then the job's, in one transaction."""
        connection = self.connect()
        transaction = connection.begin()
        sql = ""
        try:
            for sql in (*TABLES, *split(schema)):
                transaction.db.execute(sql)
            sql = "prepare()"
            prepare(transaction.db)
            transaction.commit()
        except sqlalchemy.exc.DBAPIError as error:
            transaction.rollback()
            if self.fault(error) is Fault.AWAY:
                raise UnavailableError(f"the store cannot be used: {error.orig}", where="store") from error
            raise AppError(
                f"the tables could not be made: {error.orig}", where="schema", remedy=f"this is the statement:\n{sql}"
            ) from error
        except BaseException:
            transaction.rollback()
            raise
        finally:
            connection.close()

    def fault(self, error: BaseException) -> Fault:
        """Classify by what SQLite says; what a constraint or a wrong statement says is the message's own fault."""
        driver = getattr(error, "orig", None) or error
        if not isinstance(driver, sqlite3.Error):
            return Fault.MESSAGE
        text = str(driver).lower()
        if any(word in text for word in _AWAY):
            return Fault.AWAY
        return Fault.TRANSIENT if any(word in text for word in _TRANSIENT) else Fault.MESSAGE

    def findings(self, _connections: int = 0) -> list[str]:
        folder = os.path.dirname(os.path.abspath(self._path)) if self._path else ""
        found = [f"store: {folder} cannot be written"] if folder and not os.access(folder, os.W_OK) else []
        kind = file_system(folder, _mounts()) if folder else ""
        if kind in _NETWORK:
            found.append(f"store: {folder} is on {kind}, a network file system: SQLite's locks do not hold there; use a local disk")
        if self._threads > 1:
            found.append(f"threads = {self._threads}: SQLite has one writer, so more threads than one gain nothing")
        return found

    def clean(self, older_than: float, most: int) -> int:
        with self._sweeping:
            old = self._read(lambda core: self._cleaning.look(core, older_than, most))
            return self._once(lambda core: self._cleaning.forget(core, old)) if old.inbox or old.batch else 0

    def work(self, what: Any) -> Any:
        return self._once(what)

    def hold(self, name: str) -> FileHold | None:
        return FileHold.take(f"{self._path}-holdfast.{name}" if self._path else "")

    def close(self) -> None:
        self.engine.dispose()
        self._turn.close()

    def _read(self, work: Any) -> Any:
        """Look at what is committed, without waiting for a writer. One in memory has one connection, and so has to take turns."""
        if not self._path:
            return self._once(work)
        with self.engine.connect() as core:
            core.info["reads"] = True
            return work(core)

    def _once(self, work: Any) -> Any:
        """Run something in a transaction of its own."""
        connection = self.connect()
        transaction = connection.begin()
        try:
            result = work(connection.core)
            transaction.commit()
        except BaseException:
            transaction.rollback()
            raise
        finally:
            connection.close()
        return result


class SqliteConnection:
    """One thread's connection; see `holdfast.stores.base.Connection`."""

    def __init__(self, core: sqlalchemy.Connection, turn: Turn, job: str, outbox: Outbox) -> None:
        self.core = core
        self.outbox = outbox
        self._turn = turn
        self._inbox = Inbox(core, job)
        self._open: SqliteTransaction | None = None
        self.driver: sqlite3.Connection = core.connection.driver_connection  # type: ignore[assignment]
        self.driver.set_authorizer(self._authorize)
        core.info["holdfast"] = self

    def begin(self) -> SqliteTransaction:
        self._turn.take()
        try:
            self._open = SqliteTransaction(self, self._turn, self._inbox)
        except BaseException:
            self._turn.give()
            raise
        return self._open

    def probe(self) -> None:
        """Write, commit, and take it back: what is rolled back never meets a full disk."""
        for sql, values in _PROBES:
            transaction = self.begin()
            try:
                own(self.core, sql, values)
            except BaseException:
                transaction.rollback()
                raise
            transaction.commit()

    def close(self) -> None:
        if self._open is not None:
            self._open.rollback()
        self.driver.set_authorizer(None)
        self.core.info.pop("holdfast", None)
        self.core.close()

    def forget(self) -> None:
        self._open = None

    def _authorize(self, action: int, first: str | None, second: str | None, *_rest: object) -> int:
        """Whoever asks, by whatever way: while a handler may run, only we end the transaction."""
        if action not in (_TRANSACTION, _SAVEPOINT) or self._open is None or self._open.ending:
            return sqlite3.SQLITE_OK
        if action == _SAVEPOINT and (second or "").startswith("sa_savepoint"):
            return sqlite3.SQLITE_OK
        self._open.db.broken = f"the handler tried to {first} the transaction, which is shared"
        return sqlite3.SQLITE_DENY

    def note_error(self, error: BaseException) -> None:
        """A statement failed: unless that leaves the handler, or a savepoint, the handler has swallowed it."""
        if self._open is not None and not self._open.ending:
            self._open.db.broken = self._open.db.broken or f"the handler swallowed a database error: {error}"


class SqliteTransaction(CoreTransaction):
    """One batch; see `holdfast.stores.base.Transaction`."""

    def __init__(self, connection: SqliteConnection, turn: Turn, box: Inbox) -> None:
        self._connection = connection
        self._turn = turn
        super().__init__(connection.core, box, connection.outbox)

    def _direct(self, core: sqlalchemy.Connection) -> Direct:
        return Direct(core, 0, self._connection.note_error)

    def proof(self) -> str:
        if self.db.broken:
            return self.db.broken
        if not self._connection.driver.in_transaction or not self._transaction.is_active:
            return "the handler ended the transaction"
        if self._connection.core.get_transaction() is not self._transaction:
            return "the handler replaced the transaction"
        self.db.broken = self.db.loose_end() or self.db.broken
        return self.db.broken

    def commit(self) -> None:
        self._end(self._transaction.commit)
        self.wake_outbox()

    def rollback(self) -> None:
        """Roll back; harmless when it is over already."""
        if not self.ending:
            self._end(self._transaction.rollback)

    def _end(self, how: Any) -> None:
        self.ending = True
        try:
            how()
        except BaseException:
            with contextlib.suppress(Exception):  # the first error tells more
                self._connection.core.rollback()  # SQLAlchemy keeps a transaction whose commit failed until it is rolled back
            raise
        finally:
            try:
                if self._connection.driver.in_transaction:
                    self._connection.driver.rollback()
            finally:
                self._connection.forget()
                self._turn.give()


def file_system(path: str, mounts: str) -> str:
    """The type of the file system that holds a path, by the text of /proc/self/mountinfo; empty when it is not told there."""
    kinds = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode().decode("unicode_escape")
        if path == point or path.startswith(point.rstrip("/") + "/"):
            kinds[len(point)] = after.split(" ")[0]  # of two on one point, the later one is on top
    return kinds[max(kinds)] if kinds else ""


def _mounts() -> str:
    with open("/proc/self/mountinfo") as file:
        return file.read()


def warm_up() -> None:
    """Use a store once, with a database in memory, before the forks; it is closed again."""
    import sqlalchemy.orm  # noqa: F401  for db.session(): what a worker imports later is what the disk holds by then

    store = SqliteStore("sqlite://", "", 1, 1.0)
    store.install("", lambda _db: None)
    store.close()


def _tune(driver: sqlite3.Connection, _record: object) -> None:
    cursor = driver.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


def _note_error(context: Any) -> None:
    owner = context.connection.info.get("holdfast") if context.connection is not None else None
    if owner is not None:
        owner.note_error(context.original_exception)


def _begin_immediate(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN" if connection.info.get("reads") else "BEGIN IMMEDIATE")
