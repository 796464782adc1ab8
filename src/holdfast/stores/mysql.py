"""MariaDB and MySQL through PyMySQL, or mysqlclient where `mysql+mysqldb://` asks for it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy

from holdfast.errors import AppError, ConfigurationError
from holdfast.model.delivery import DONE
from holdfast.stores.base import Claim, Fault
from holdfast.stores.inbox import ROWS_A_STATEMENT, Inbox
from holdfast.stores.server import OrphanError, ServerStore, ServerTransaction
from holdfast.stores.statements import own

_IN_TRANSACTION = 1  # of the status that the server sends with each answer
_DEADLOCK, _LOCK_WAIT = 1213, 1205
_TRANSIENT = {_DEADLOCK, _LOCK_WAIT, 1020, 1317, 1412, 1614, 1689, 1969, 3024, 3572}
# Connections exhausted, rights and database missing, read-only, disk full, out of memory.
_AWAY = {3, 1021, 1028, 1037, 1038, 1040, 1041, 1044, 1045, 1049, 1114, 1129, 1130, 1203, 1226, 1290, 1698, 1792, 1836, 3100}
_LOST = {0, 1053, 1077, 1079, 1080, 1152, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1927, 3159, 4031}
_DENIED = {1044, 1142, 1227}
_INDEX_IS_THERE = 1061
_IF_IT_IS_NOT = re.compile(r"^(\s*CREATE\s+(?:\w+\s+)?INDEX\s+)IF\s+NOT\s+EXISTS\s+", re.IGNORECASE)
_LOCK_SECONDS, _CLAIM_SECONDS = 5.0, 2
_TLS_WORDS = ("ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_check_hostname")
_LONG_ENOUGH = 4 << 20
_TEXT = "CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"

TABLES = (
    f"""CREATE TABLE IF NOT EXISTS holdfast_inbox (scope VARCHAR(120) {_TEXT} NOT NULL, id BINARY(20) NOT NULL, digest BINARY(16) NOT NULL,
       outcome TINYINT NOT NULL, answer MEDIUMBLOB, seen_at DOUBLE NOT NULL, claim BINARY(8), PRIMARY KEY (scope, id)) ENGINE=InnoDB""",
    f"""CREATE TABLE IF NOT EXISTS holdfast_batch (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, scope VARCHAR(120) {_TEXT} NOT NULL,
       epoch VARCHAR(40) {_TEXT} NOT NULL, block BIGINT NOT NULL, data LONGBLOB NOT NULL, seen_at DOUBLE NOT NULL,
       KEY holdfast_batch_block (scope, epoch, block)) ENGINE=InnoDB""",
    f"""CREATE TABLE IF NOT EXISTS holdfast_dead (id VARCHAR(64) {_TEXT} PRIMARY KEY, job VARCHAR(120) {_TEXT} NOT NULL, state VARCHAR(10)
       NOT NULL, reason MEDIUMTEXT {_TEXT} NOT NULL, trace MEDIUMTEXT {_TEXT} NOT NULL, identity LONGBLOB, message_id TEXT {_TEXT} NOT NULL,
       headers LONGTEXT {_TEXT} NOT NULL, source TEXT {_TEXT} NOT NULL, attempts INT NOT NULL, died_at DOUBLE NOT NULL,
       size BIGINT NOT NULL) ENGINE=InnoDB""",
    f"""CREATE TABLE IF NOT EXISTS holdfast_dead_body (letter VARCHAR(64) {_TEXT} NOT NULL, part INT NOT NULL, data LONGBLOB NOT NULL,
       PRIMARY KEY (letter, part)) ENGINE=InnoDB""",
    f"""CREATE TABLE IF NOT EXISTS holdfast_outbox (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, scope VARCHAR(120) {_TEXT} NOT NULL,
       target VARCHAR(1000) {_TEXT} NOT NULL, routing_key VARCHAR(255) {_TEXT} NOT NULL, message_id VARCHAR(255) {_TEXT} NOT NULL,
       headers LONGTEXT {_TEXT} NOT NULL, body LONGBLOB NOT NULL, created_at DOUBLE NOT NULL, KEY holdfast_outbox_scope (scope, id))
       ENGINE=InnoDB""",
)


class MysqlInbox(Inbox):
    """Claims by ON DUPLICATE KEY UPDATE, which unlike INSERT IGNORE neither deadlocks nor truncates; then those of others are looked up."""

    _patience = 1

    def _insert(self, keys: list[bytes], wanted: dict[bytes, Claim]) -> set[bytes]:
        mine, now, values = os.urandom(8), time.time(), []
        for key in keys:
            values += [self._scope, key, wanted[key].digest, DONE, now, mine]
        groups = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(keys))
        sql = (
            f"INSERT INTO holdfast_inbox (scope, id, digest, outcome, seen_at, claim) VALUES {groups} ON DUPLICATE KEY UPDATE claim = claim"
        )
        own(self._connection, self._impatient() + sql, tuple(values))
        marks = ", ".join("?" * len(keys))
        others = f"SELECT id FROM holdfast_inbox WHERE scope = ? AND id IN ({marks}) AND claim <> ?"
        return set(keys) - {bytes(row[0]) for row in own(self._connection, others, (self._scope, *keys, mine))}

    def _impatient(self) -> str:
        """MariaDB takes a limit for one statement."""
        return f"SET STATEMENT innodb_lock_wait_timeout={_CLAIM_SECONDS} FOR " if _is_mariadb(self._connection) else ""

    def _contested(self, error: Exception) -> bool:
        return _code(error) == _LOCK_WAIT

    def _begin_again(self) -> None:
        """The statement alone was undone."""
        self._patience = int(own(self._connection, "SELECT @@innodb_lock_wait_timeout").scalar())
        own(self._connection, "SET SESSION innodb_lock_wait_timeout = 1")

    def _be_patient(self) -> None:
        own(self._connection, f"SET SESSION innodb_lock_wait_timeout = {self._patience}")

    def _lookup(self) -> str:
        """A locking read: it waits for a transaction that has inserted such a row and is in the middle of its commit."""
        return f"{super()._lookup()} LOCK IN SHARE MODE"

    def _update(self, changed: list[tuple[int, bytes | None, bytes, bytes]]) -> None:
        """As one statement of many rows; PyMySQL would send an UPDATE for each."""
        for at in range(0, len(changed), ROWS_A_STATEMENT):
            part = changed[at : at + ROWS_A_STATEMENT]
            values: list[Any] = []
            for outcome, answer, key, digest in part:
                values += [self._scope, key, digest, outcome, answer, 0.0]
            groups = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(part))
            sql = f"INSERT INTO holdfast_inbox (scope, id, digest, outcome, answer, seen_at) VALUES {groups}"
            own(self._connection, sql + " ON DUPLICATE KEY UPDATE outcome = VALUES(outcome), answer = VALUES(answer)", tuple(values))


class MysqlStore(ServerStore):
    """See `holdfast.stores.server`."""

    scheme = "mysql"
    tables = TABLES
    inbox = MysqlInbox
    listeners = 2

    def __init__(self, url: str, job: str, _threads: int, timeout: float) -> None:
        place = sqlalchemy.make_url(url)
        base, _, driver = place.drivername.partition("+")
        driver = driver or "pymysql"
        isolation = str(place.query.get("isolation", "READ COMMITTED"))
        self._pure = driver == "pymysql"
        arguments: dict[str, Any] = {"connect_timeout": int(max(2.0, min(10.0, timeout)))}
        if self._pure:
            arguments |= {"read_timeout": timeout, "write_timeout": timeout, "autocommit": False, "charset": "utf8mb4"}
            arguments |= _tls(_wanted(place))
        else:
            arguments |= {"read_timeout": max(1, int(timeout)), "write_timeout": max(1, int(timeout)), "multi_statements": False}
            arguments |= _mysqlclient_tls(_wanted(place))
        place = place.difference_update_query(["isolation", *_wanted(place)]).set(drivername=f"{base}+{driver}")
        super().__init__(place, job, timeout, connect_args=arguments)
        self._session = [
            f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation.replace('-', ' ')}",
            f"SET SESSION innodb_lock_wait_timeout = {int(max(1.0, min(_LOCK_SECONDS, timeout / 3)))}",
        ]
        self._idle = max(1, int(2 * timeout))
        sqlalchemy.event.listen(self.engine, "connect", self._set_up)
        sqlalchemy.event.listen(self.engine, "after_cursor_execute", _watch)

    def _set_up(self, driver: Any, _record: object) -> None:
        """The limits of a session: it must not hold its locks for eight hours when its client is gone."""
        with contextlib.suppress(AttributeError, OSError):
            driver._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.timeout * 1000))
        cursor = driver.cursor()
        try:
            for sql in self._session:
                cursor.execute(sql)
            try:
                cursor.execute(f"SET SESSION idle_transaction_timeout = {self._idle}")
            except Exception:  # MySQL has no limit for transactions alone
                cursor.execute(f"SET SESSION wait_timeout = {self._idle}")
        finally:
            cursor.close()

    def open(self) -> sqlalchemy.Connection:
        try:
            return super().open()
        except RuntimeError as error:  # PyMySQL's way to say that it needs another package
            if "cryptography" not in str(error):
                raise
            raise AppError(
                "the store's server takes this password over TLS only, or with the package cryptography",
                where="store",
                remedy="leave ssl=false out of its URL, or pip install cryptography",
            ) from error

    def _make(self, core: sqlalchemy.Connection, sql: str) -> None:
        """MySQL knows no CREATE INDEX IF NOT EXISTS: there it is made, and that it is there already is no error."""
        plain = sql if _is_mariadb(core) else _IF_IT_IS_NOT.sub(r"\1", sql)
        try:
            super()._make(core, plain)
        except AppError as error:
            if plain == sql or _code(error.__cause__) != _INDEX_IS_THERE:
                raise

    def fault(self, error: BaseException) -> Fault:
        """Classify by the server's error number; those from 2000 to 2999 are the client's, about its connection."""
        if isinstance(error, OrphanError):
            return Fault.AWAY
        code = _code(error)
        if code is None:
            return Fault.MESSAGE
        if code in _TRANSIENT:
            return Fault.TRANSIENT
        if code in _AWAY:
            return Fault.AWAY
        return Fault.LOST if code in _LOST or 2000 <= code < 3000 else Fault.MESSAGE

    def destroys(self, error: BaseException) -> bool:
        return _code(error) in (_DEADLOCK, 1614) or super().destroys(error)

    def denied(self, error: BaseException) -> bool:
        return _code(error) in _DENIED

    def mark(self, core: sqlalchemy.Connection) -> str:
        """A lock by name that the session holds to its end: connection ids come again after a restart of the server."""
        mark = f"holdfast.{os.urandom(12).hex()}"
        own(core, "SELECT GET_LOCK(?, 0)", (mark,))
        return mark

    def end_session(self, core: sqlalchemy.Connection, mark: str) -> bool:
        """KILL it; its lock goes after its transaction was rolled back, or has committed."""
        session = own(core, "SELECT IS_USED_LOCK(?)", (mark,)).scalar()
        if session is None:
            return True
        with contextlib.suppress(sqlalchemy.exc.DBAPIError):  # 1094: it has gone meanwhile
            own(core, f"KILL CONNECTION {int(session)}")
        return False

    def whole(self, core: sqlalchemy.Connection) -> str:
        return str(core.info.get("ended", ""))

    def watch(self, transaction: ServerTransaction, core: sqlalchemy.Connection) -> Callable[[str], None]:
        driver, info = core.connection.driver_connection, core.info
        return lambda statement: _look(driver, info, transaction, statement)

    def lock_for(self, core: sqlalchemy.Connection, name: str) -> bool:
        return bool(own(core, "SELECT GET_LOCK(LEFT(CONCAT('holdfast ', DATABASE(), ' ', ?), 64), 0)", (name,)).scalar() == 1)

    def limit_idle(self, core: sqlalchemy.Connection, seconds: float) -> None:
        own(core, f"SET SESSION wait_timeout = {max(1, int(seconds))}")  # the limit of transactions is none for a session without one

    def server_findings(self, core: sqlalchemy.Connection, connections: int) -> Iterator[str]:
        known = {row[0]: str(row[1]) for row in own(core, "SHOW GLOBAL VARIABLES")}
        usable = int(known["max_connections"])
        others = int(own(core, "SELECT count(*) - 1 FROM information_schema.PROCESSLIST WHERE USER <> 'system user'").scalar() or 0)
        if connections + others > usable:
            yield (
                f"store: the daemon can open {connections} connections (a rollout's heirs included), others hold {others},"
                f" and the server takes {usable}; raise max_connections, or lower threads or processes"
            )
        yield from findings_of(known)
        yield from self._tables(core)
        yield from _privileges(core)
        skew = float(own(core, "SELECT UNIX_TIMESTAMP(NOW(6))").scalar() or 0) - time.time()
        if abs(skew) > 60:
            yield f"store: the server's clock is {skew:+.0f} s off this machine's; inbox_keep counts by the workers' clocks"

    @staticmethod
    def _tables(core: sqlalchemy.Connection) -> Iterator[str]:
        sql = """SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE'
                 AND ENGINE NOT IN ('InnoDB', 'ROCKSDB', 'NDBCLUSTER') ORDER BY TABLE_NAME LIMIT 20"""
        for row in own(core, sql).all():
            table, engine = row[0], row[1]
            yield f"store: table {table} is {engine}, which cannot roll back: what fails there stays half done"


def findings_of(known: Mapping[str, str]) -> Iterator[str]:
    """By the server's variables."""
    if int(known["max_allowed_packet"]) < _LONG_ENOUGH:
        yield f"store: max_allowed_packet is {known['max_allowed_packet']}; dead letters are stored in rows of 1 MiB: set 16M or more"
    if known.get("log_bin") == "ON" and known.get("binlog_format") == "STATEMENT":
        yield "store: binlog_format is STATEMENT, which refuses writes at READ COMMITTED: set MIXED or ROW"
    if known.get("innodb_flush_log_at_trx_commit", "1") != "1":
        yield "store: innodb_flush_log_at_trx_commit is not 1: a commit that was answered can be lost when the machine dies"
    if known.get("innodb_rollback_on_timeout") == "ON":
        yield "store: innodb_rollback_on_timeout is ON: a lock wait that a handler catches in a savepoint costs its whole batch"
    if known.get("read_only", "OFF") not in ("OFF", "0") or known.get("super_read_only", "OFF") == "ON":
        yield "store: the server is read-only: nothing can be handled"


def _privileges(core: sqlalchemy.Connection) -> Iterator[str]:
    grants = " ".join(str(row[0]) for row in own(core, "SHOW GRANTS"))
    sql = "SELECT count(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'holdfast_inbox'"
    there = own(core, sql).scalar()
    if not there and "ALL PRIVILEGES" not in grants and "CREATE" not in grants:
        yield "store: this user may not create tables, and holdfast_inbox is not there: `start` prints what to run"


def _watch(connection: sqlalchemy.Connection, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    info = connection.info
    holder = info.get("holdfast")
    current = holder.current if holder is not None else None
    if current is None:
        return
    _look(connection.connection.driver_connection, info, current, statement)


def _look(driver: Any, info: Any, current: ServerTransaction, statement: str) -> None:
    """The server says with each answer whether a transaction is open: it must not end before we end it."""
    status = getattr(driver, "server_status", None)
    if status is None or current.ending:
        return
    if info.get("began") is not current:
        info["ended"] = ""
        info["began"] = current if status & _IN_TRANSACTION else None
    elif not status & _IN_TRANSACTION:
        info["ended"] = f"the transaction was ended by: {' '.join(statement.split())[:80]}"


def _wanted(place: sqlalchemy.URL) -> dict[str, str]:
    """What the URL says of TLS: verified, name included, unless ssl_check_hostname=false."""
    return {name: str(value) for name, value in place.query.items() if name in _TLS_WORDS}


def _mysqlclient_tls(wanted: dict[str, str]) -> dict[str, Any]:
    """The same for mysqlclient, whose own `ssl=true` encrypts without looking at whom it talks to."""
    if not wanted or wanted == {"ssl": "false"}:
        return {"ssl_mode": "DISABLED"} if wanted else {}
    files = {word: wanted[f"ssl_{word}"] for word in ("ca", "cert", "key") if f"ssl_{word}" in wanted}
    mode = "VERIFY_CA" if wanted.get("ssl_check_hostname") == "false" else "VERIFY_IDENTITY"
    return {"ssl_mode": mode, **({"ssl": files} if files else {})}


def _tls(wanted: dict[str, str]) -> dict[str, Any]:
    """For PyMySQL."""
    if not wanted:
        return {}
    if wanted == {"ssl": "false"}:
        return {"ssl_disabled": True}
    try:
        context = ssl.create_default_context(cafile=wanted.get("ssl_ca"))
        if "ssl_cert" in wanted:
            context.load_cert_chain(wanted["ssl_cert"], wanted.get("ssl_key"))
    except OSError as error:
        raise ConfigurationError(f"the certificates of the store cannot be read: {error.strerror or error}", where="store") from error
    context.check_hostname = wanted.get("ssl_check_hostname", "true") != "false"
    return {"ssl": context}


def _is_mariadb(core: sqlalchemy.Connection) -> bool:
    """Else it is MySQL."""
    return bool(getattr(core.dialect, "is_mariadb", False))


def _code(error: BaseException | None) -> int | None:
    """The error number; None for what is no error of the driver's. A closed connection has 0."""
    driver = getattr(error, "orig", None) or error
    if type(driver).__module__.partition(".")[0] not in ("pymysql", "MySQLdb"):
        return None
    first = driver.args[0] if driver is not None and driver.args else 0
    return first if isinstance(first, int) else None
