"""Servers that die, stall, refuse and deadlock, seen by one connection: traps 22 to 24 and 34, on MariaDB and PostgreSQL."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy

from holdfast.errors import AppError, ConfigurationError, UnavailableError
from holdfast.model.delivery import DONE
from holdfast.stores import open_store, server
from holdfast.stores.base import Claim, Fault, Verdict
from holdfast.testing import Proxy
from holdfast.testing.databases import Databases, query

SERVERS = ["mariadb", "postgresql"]
TABLE = "CREATE TABLE IF NOT EXISTS account (name VARCHAR(50) PRIMARY KEY, volume INTEGER)"


@pytest.fixture(params=SERVERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def proxied(url: str, opened: Callable[..., Any]) -> Iterator[tuple[Proxy, Any]]:
    """A store behind a proxy, its tables made."""
    opened().install(TABLE, lambda db: None)
    place = sqlalchemy.make_url(url)
    assert place.host
    assert place.port
    with Proxy(place.host, place.port) as proxy:
        plain = {"sslmode": "disable"} if place.drivername == "postgresql" else {"ssl": "false"}  # words that the proxy can read
        through = place.set(port=proxy.port).update_query_dict(plain)
        store = open_store(through.render_as_string(hide_password=False), "Fee", timeout=2.0)
        yield proxy, store
        store.close()


def claim(identity: bytes | None, seq: int = 1, redelivered: bool = False) -> Claim:
    return Claim(7, seq, identity, b"d" * 16, redelivered)


def work(transaction: Any, name: str, identity: bytes | None = b"a") -> None:
    assert transaction.claim([claim(identity)])[0].verdict is Verdict.RUN
    transaction.begin_message()
    transaction.db.execute("INSERT INTO account VALUES (:n, 1)", {"n": name})
    transaction.record([(claim(identity), DONE, b"yes")])


def failing(store: Any, what: Callable[[], Any]) -> Fault:
    with pytest.raises(Exception) as caught:
        what()
    return store.fault(caught.value)  # type: ignore[no-any-return]


# Lost connections


@pytest.mark.parametrize("identity", [b"a", None])
@pytest.mark.parametrize("delivered", [True, False])
def test_a_commit_whose_answer_was_lost_is_asked_for_after_its_session_has_ended(
    proxied: Any, url: str, identity: bytes | None, delivered: bool
) -> None:
    proxy, store = proxied
    connection = store.connect()
    transaction = connection.begin()
    work(transaction, "a", identity)
    proxy.cut_at(b"COMMIT", delivered=delivered)
    assert failing(store, transaction.commit) is Fault.LOST
    transaction = connection.begin()
    verdict = transaction.claim([claim(identity, redelivered=True)])[0].verdict
    transaction.rollback()
    connection.close()
    done = query(url, "SELECT count(*) FROM account") == [(1,)]
    assert verdict is (Verdict.DONE if done else Verdict.RUN)
    assert done or not delivered


def sessions(kind: str, url: str, mark: str) -> int:
    if kind == "postgresql":
        return int(query(url, f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{mark}'")[0][0])
    return int(query(url, f"SELECT IS_USED_LOCK('{mark}') IS NOT NULL")[0][0])


def test_the_session_of_a_lost_connection_is_ended_and_its_locks_are_free(proxied: Any, kind: str, url: str) -> None:
    """A black hole: neither end hears of it, the server holds the locks until we end its session."""
    proxy, store = proxied
    connection = store.connect()
    transaction = connection.begin()
    work(transaction, "a")
    mark = connection._mark
    proxy.stall()
    assert failing(store, lambda: transaction.db.execute("SELECT 1")) is Fault.LOST
    transaction.rollback()
    assert sessions(kind, url, mark) == 1
    proxy.truncate(0)  # what is held back never comes through: these connections end when they are let go on
    straight = open_store(url, "Fee", timeout=2.0)
    connection.store = straight
    again = connection.begin()
    assert sessions(kind, url, mark) == 0
    work(again, "a")
    again.commit()
    connection.close()
    straight.close()
    assert query(url, "SELECT name, volume FROM account") == [("a", 1)]


def test_a_redelivery_waits_for_a_commit_that_is_under_way(url: str, opened: Callable[..., Any]) -> None:
    opened().install(TABLE, lambda db: None)
    first, second = opened().connect(), opened().connect()
    transaction = first.begin()
    work(transaction, "a", None)
    found: list[Verdict] = []
    again = second.begin()
    asking = threading.Thread(target=lambda: found.extend(d.verdict for d in again.claim([claim(None, redelivered=True)])))
    asking.start()
    asking.join(0.3)
    assert asking.is_alive()
    transaction.commit()
    asking.join(30)
    assert found == [Verdict.DONE]
    again.rollback()
    first.close()
    second.close()


def end_sessions(kind: str, url: str) -> None:
    if kind == "postgresql":
        query(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'holdfast%%'")
        return
    mine = "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
    for (session,) in query(url, mine):
        with suppress(sqlalchemy.exc.DBAPIError):
            query(url, f"KILL {session}")


def test_a_connection_that_the_server_has_closed_is_replaced_before_use(
    proxied: Any, kind: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CHECK_AFTER", -1.0)
    _proxy, store = proxied
    connection = store.connect()
    end_sessions(kind, url)
    transaction = connection.begin()
    work(transaction, "a")
    transaction.commit()
    connection.close()


def test_an_old_connection_is_replaced(proxied: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LIFETIME", -10.0)
    proxy, store = proxied
    connection = store.connect()
    before = proxy.accepted
    connection.begin().rollback()
    assert proxy.accepted == before + 1
    connection.close()


def deadlock(opened: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """Two transactions that want each other's rows; the victim's connection, its transaction, and its error, caught in a savepoint."""
    opened().install(TABLE, lambda db: db.execute("INSERT INTO account VALUES (:n, 1)", [{"n": "a"}, {"n": "b"}]))
    connections = [opened().connect(), opened().connect()]
    transactions = [connection.begin() for connection in connections]
    errors: list[Any] = [None, None]
    update = "UPDATE account SET volume = 2 WHERE name = :n"

    def cross(index: int) -> None:
        try:
            with transactions[index].savepoint():
                transactions[index].db.execute(update, {"n": "ba"[index]})
        except Exception as error:
            errors[index] = error

    for index in (0, 1):
        transactions[index].begin_message()
        transactions[index].db.execute(update, {"n": "ab"[index]})
    threads = [threading.Thread(target=cross, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    victim = next(index for index in (0, 1) if "deadlock" in str([errors[index], transactions[index].lost]).lower())
    transactions[1 - victim].rollback()
    connections[1 - victim].close()
    return connections[victim], transactions[victim], errors[victim]


def test_a_deadlocks_victim_is_told_from_its_batch_and_gets_another_connection(opened: Callable[..., Any], kind: str) -> None:
    connection, transaction, error = deadlock(opened)
    if kind == "mariadb":  # all of the transaction is gone, savepoint or not; in PostgreSQL the savepoint alone
        assert connection.store.fault(transaction.lost) is Fault.TRANSIENT
        assert "gone" in transaction.proof()
    else:
        assert connection.store.fault(error) is Fault.TRANSIENT
        assert transaction.proof() == ""
    core = connection.core
    transaction.rollback()
    connection.begin().rollback()
    assert connection.core is not core
    connection.close()


def test_a_contested_identity_is_set_aside_and_its_batch_goes_on(opened: Callable[..., Any], kind: str) -> None:
    opened().install(TABLE, lambda db: None)
    one, two = opened().connect(), opened().connect()
    holder = one.begin()
    work(holder, "a", b"a")
    batch = two.begin()
    verdicts = [d.verdict for d in batch.claim([claim(b"%c" % letter, letter) for letter in b"abc"])]
    assert verdicts == [Verdict.BUSY, Verdict.RUN, Verdict.RUN]
    limit = "SHOW lock_timeout" if kind == "postgresql" else "SELECT @@innodb_lock_wait_timeout"
    assert str(batch.db.execute(limit).scalar()) in ("3s", "3")  # as before
    batch.record([(claim(b"b"), DONE, b"TRUE"), (claim(b"c"), DONE, b"TRUE")])
    batch.commit()
    holder.rollback()
    one.close()
    two.close()


def test_a_hundred_threads_do_not_run_the_server_over(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Some connections are being opened at any time, and some a second; all get theirs."""
    store = opened()
    lock, now, most, began = threading.Lock(), 0, 0, []
    connect = store.engine.connect

    def counted() -> Any:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
            began.append(time.monotonic())
        core = connect()
        with lock:
            now -= 1
        return core

    monkeypatch.setattr(store.engine, "connect", counted)
    made: list[Any] = []
    first = time.monotonic()
    threads = [threading.Thread(target=lambda: made.append(store.open())) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for core in made:
        core.close()
    assert len(made) == 100
    assert most <= 8
    assert max(began) - first >= 1.6  # 16 at once, then 50 a second


# What the server says


def test_an_index_is_made_once_on_mysql_too(opened: Callable[..., Any], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "postgresql":
        return
    store = opened()
    store.connect().close()
    monkeypatch.setattr(store.engine.dialect, "is_mariadb", False)
    table = "CREATE TABLE IF NOT EXISTS fee (a INTEGER, b INTEGER)"
    for _ in range(2):
        store.install(
            f"{table}; CREATE INDEX IF NOT EXISTS one ON fee (a); create unique index if not exists two on fee (b)", lambda db: None
        )
    with pytest.raises(AppError, match="uplicate key name"):
        store.install("CREATE INDEX one ON fee (a)", lambda db: None)


def test_limits_of_a_session(opened: Callable[..., Any], kind: str) -> None:
    connection = opened(timeout=9.0).connect()
    db = connection.begin().db

    def ask(sql: str) -> str:
        return str(db.execute(sql).scalar())

    if kind == "postgresql":
        assert ask("SHOW transaction_isolation") == "read committed"
        assert (ask("SHOW lock_timeout"), ask("SHOW idle_in_transaction_session_timeout")) == ("3s", "18s")
    else:
        assert variable(db, "tx_isolation", "transaction_isolation") == "READ-COMMITTED"
        assert variable(db, "innodb_lock_wait_timeout") == "3"
        assert variable(db, "idle_transaction_timeout", "wait_timeout") == "18"
        assert ask("SELECT @@autocommit") == "0"
    connection.close()


def variable(db: Any, *names: str) -> str:
    """Of a session on MariaDB or MySQL: the first of these that the server has."""
    known = dict(db.execute("SHOW SESSION VARIABLES").all())
    return next(str(known[name]) for name in names if name in known)


def test_another_isolation_when_it_is_asked_for(url: str, kind: str) -> None:
    store = open_store(f"{url}?isolation=SERIALIZABLE", "Fee")
    connection = store.connect()
    db = connection.begin().db
    if kind == "postgresql":
        assert db.execute("SHOW transaction_isolation").scalar() == "serializable"
    else:
        assert variable(db, "tx_isolation", "transaction_isolation") == "SERIALIZABLE"
    connection.close()
    store.close()


def test_no_connections_left_is_weather(guest: Callable[..., str], kind: str) -> None:
    store = open_store(guest(1), "Fee")
    connection = store.connect()
    assert failing(store, store.connect) in (Fault.AWAY, Fault.LOST)
    connection.close()
    store.close()


def test_a_read_only_server_is_weather_and_the_probe_sees_it(
    guest: Callable[..., str], kind: str, url: str, opened: Callable[..., Any], databases: Databases
) -> None:
    opened().install(TABLE, lambda db: None)
    place = guest()
    if kind == "postgresql":
        query(url, "GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
    store = open_store(place, "Fee")
    connection = store.connect()
    connection.probe()
    switch = ("ALTER ROLE guest SET default_transaction_read_only = {}", "SET GLOBAL read_only = {}")[kind == "mariadb"]
    databases.administer(kind, switch.format("on" if kind == "postgresql" else "1"))
    try:
        assert failing(store, connection.probe) is Fault.AWAY
        assert any("read-only" in finding for finding in store.findings(1))
    finally:
        databases.administer(kind, switch.format("off" if kind == "postgresql" else "0"))
    connection.probe()
    connection.close()
    store.close()


def test_tables_that_are_there_need_no_right_to_make_them(guest: Callable[..., str], kind: str, databases: Databases) -> None:
    fresh = databases.make(kind)
    place = guest(at=fresh)
    if kind == "postgresql":
        query(fresh, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    store, owner = open_store(place, "Fee"), open_store(fresh, "Fee")
    with pytest.raises(AppError, match="this is the statement:\nCREATE TABLE IF NOT EXISTS holdfast_inbox"):
        store.install(TABLE, lambda db: None)
    assert any("may not create tables" in finding for finding in store.findings(1))
    owner.install(TABLE, lambda db: None)
    if kind == "postgresql":
        query(fresh, "GRANT ALL ON ALL TABLES IN SCHEMA public TO guest")
    store.install(TABLE, lambda db: None)
    store.close()
    owner.close()
    if kind == "postgresql":
        query(fresh, "DROP OWNED BY guest")


def test_a_parameter_that_is_too_long_is_no_weather_for_the_probe(opened: Callable[..., Any], kind: str) -> None:
    """It looks like a lost connection, or like a message's fault, by driver; that the store is well tells the two apart."""
    store = opened()
    store.install("CREATE TABLE big (x BYTEA)" if kind == "postgresql" else "CREATE TABLE big (x LONGBLOB)", lambda db: None)
    connection = store.connect()
    transaction = connection.begin()
    transaction.begin_message()
    if kind == "mariadb":
        long = {"x": b"x" * (int(variable(transaction.db, "max_allowed_packet")) + 1)}
        assert failing(store, lambda: transaction.db.execute("INSERT INTO big VALUES (:x)", long)) in (Fault.LOST, Fault.MESSAGE)
        assert transaction.proof()
    transaction.rollback()
    connection.probe()
    connection.close()


def test_ddl_and_whatever_else_commits_is_refused(opened: Callable[..., Any], kind: str, url: str) -> None:
    if kind == "postgresql":
        return  # its DDL is part of the transaction
    opened().install(TABLE, lambda db: None)
    connection = opened().connect()
    for sql in ("CREATE TABLE t2 (x INTEGER)", "TRUNCATE account", "SET autocommit = 1", "/*!50000 COMMIT */", "LOCK TABLES account READ"):
        transaction = connection.begin()
        transaction.begin_message()
        transaction.db.execute("INSERT INTO account VALUES ('a', 1)")
        with pytest.raises(server.Refused):
            transaction.db.execute(sql)
        assert "would end the transaction" in transaction.proof()
        transaction.rollback()
    transaction = connection.begin()
    transaction.begin_message()
    transaction.db.execute("CREATE TEMPORARY TABLE t3 (x INTEGER)")
    transaction.db.execute("INSERT INTO account VALUES ('a', 1)")
    transaction.db.execute("PREPARE hidden FROM 'COMMIT'")
    transaction.db.execute("EXECUTE hidden")
    assert "ended by: EXECUTE hidden" in transaction.proof()
    transaction.rollback()
    connection.close()


# Getting there


def test_a_password_that_needs_tls_is_told_as_that(url: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MySQL 8 sends no challenge that PyMySQL can answer by itself."""
    if kind == "postgresql":
        return

    def connect(_self: Any, sock: Any = None) -> None:
        raise RuntimeError("'cryptography' package is required for sha256_password or caching_sha2_password auth methods")

    monkeypatch.setattr("pymysql.connections.Connection.connect", connect)
    with pytest.raises(AppError, match="over TLS only") as told:
        open_store(f"{url}?ssl=false", "Fee").connect()
    assert "ssl=false" in told.value.remedy


def test_tls_is_verified_when_it_is_asked_for(services: Any, url: str, kind: str) -> None:
    ca = f"{services.directory}/{kind}/server.crt"
    good, bad = {
        "mariadb": (f"ssl_ca={ca}", "ssl=true"),
        "postgresql": (f"sslmode=verify-full&sslrootcert={ca}", "sslmode=verify-full&sslrootcert=/etc/hostname"),
    }[kind]
    store = open_store(f"{url}?{good}", "Fee")
    connection = store.connect()
    sql = {
        "mariadb": "SHOW SESSION STATUS LIKE 'Ssl_cipher'",
        "postgresql": "SELECT cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    }[kind]
    assert "AES" in str(connection.begin().db.execute(sql).all())
    connection.close()
    store.close()
    unsure = open_store(f"{url}?{bad}", "Fee")
    assert failing(unsure, unsure.connect) in (Fault.LOST, Fault.AWAY)
    unsure.close()


def test_sqlalchemys_own_schemes_work(url: str, kind: str) -> None:
    scheme = {"mariadb": "mysql+pymysql", "postgresql": "postgresql+psycopg"}[kind]
    store = open_store(f"{scheme}://{url.partition('://')[2]}", "Fee")
    store.connect().close()
    store.close()


def test_a_driver_that_is_missing_is_named_with_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, extra = {"mariadb": ("MySQLdb", "mysqlclient"), "postgresql": ("psycopg", "postgresql")}[kind]
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "holdfast.stores.postgresql", raising=False)
    url = {"mariadb": "mysql+mysqldb://u@h/d", "postgresql": "postgresql://u@h/d"}[kind]
    with pytest.raises(ConfigurationError, match=rf"pip install 'holdfast\[{extra}\]'"):
        open_store(url, "Fee")


def test_a_server_that_is_not_there_is_unavailable(kind: str) -> None:
    url = {"mariadb": "mysql://u:p@127.0.0.1:1/d", "postgresql": "postgresql://u:p@127.0.0.1:1/d"}[kind]
    store = open_store(url, "Fee", timeout=2.0)
    assert failing(store, store.connect) in (Fault.LOST, Fault.AWAY)
    with pytest.raises(UnavailableError):
        store.findings(1)
    store.close()
