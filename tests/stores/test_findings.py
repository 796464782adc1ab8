"""What `check` says of a real server: whatever would make the daemon lose, refuse or wait for connections later."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from holdfast.stores import open_store
from holdfast.stores.mysql import findings_of
from holdfast.testing.databases import Databases, query


@pytest.fixture(params=["mariadb", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def findings(url: str, connections: int = 1) -> list[str]:
    store = open_store(url, "Fee")
    try:
        return store.findings(connections)
    finally:
        store.close()


def test_a_good_server_gets_no_word(store: Any) -> None:
    assert store.findings(16) == []


def test_connections_are_counted_against_what_the_server_takes(url: str) -> None:
    (found,) = [finding for finding in findings(url, 5000) if "max_connections" in finding]
    assert "can open 5000 connections (a rollout's heirs included)" in found


def test_others_connections_count(url: str, opened: Callable[..., Any], databases: Databases, kind: str) -> None:
    usable = int(databases.administer(kind, "SHOW max_connections" if kind == "postgresql" else "SELECT @@max_connections")[0][0])
    if kind == "postgresql":
        usable -= int(databases.administer(kind, "SHOW superuser_reserved_connections")[0][0])
    assert not any("max_connections" in finding for finding in findings(url, usable // 2))
    other = opened().connect()
    assert any("others hold" in finding for finding in findings(url, usable))
    other.close()


@pytest.fixture
def shifted(guest: Callable[..., str], kind: str, databases: Databases, url: str) -> Iterator[str]:
    """For this user the server's clock is an hour off."""
    place = guest()
    if kind == "mariadb":
        databases.administer(kind, "SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() + 3600'")
        yield place
        databases.administer(kind, "SET GLOBAL init_connect = ''")
        return
    later = "$$SELECT pg_catalog.clock_timestamp() + interval '1 hour'$$"
    query(
        url,
        "CREATE SCHEMA clock",
        f"CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS {later}",
        "GRANT USAGE ON SCHEMA clock TO guest",
        "ALTER ROLE guest SET search_path = clock, public, pg_catalog",
    )
    yield place
    query(url, "DROP SCHEMA clock CASCADE")


def test_a_clock_that_is_off_is_told(shifted: str) -> None:
    (found,) = [finding for finding in findings(shifted) if "clock" in finding]
    assert 3500 < float(found.partition("clock is ")[2].split()[0]) < 3700


def test_what_may_be_lost_is_told(guest: Callable[..., str], kind: str, databases: Databases) -> None:
    place = guest()
    if kind == "postgresql":
        databases.administer(kind, "ALTER ROLE guest SET synchronous_commit = off")
        assert any("synchronous_commit is off" in finding for finding in findings(place))
        return
    databases.administer(kind, "SET GLOBAL innodb_flush_log_at_trx_commit = 2")
    try:
        assert any("flush_log_at_trx_commit is not 1" in finding for finding in findings(place))
    finally:
        databases.administer(kind, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")


def test_tables_that_cannot_roll_back_are_named(url: str, kind: str) -> None:
    if kind == "mariadb":
        query(url, "CREATE TABLE old (x INTEGER) ENGINE=MyISAM")
        assert any("table old is MyISAM, which cannot roll back" in finding for finding in findings(url))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"log_bin": "ON", "binlog_format": "STATEMENT"}, "binlog_format is STATEMENT, which refuses writes at READ COMMITTED"),
        ({"log_bin": "ON", "binlog_format": "ROW"}, ""),
        ({"log_bin": "OFF", "binlog_format": "STATEMENT"}, ""),
        ({"max_allowed_packet": "1048576"}, "max_allowed_packet is 1048576"),
        ({"innodb_rollback_on_timeout": "ON"}, "innodb_rollback_on_timeout is ON"),
        ({"super_read_only": "ON"}, "read-only"),
    ],
)
def test_variables_of_a_real_server_with_one_changed(databases: Databases, kind: str, changed: dict[str, str], said: str) -> None:
    """Those that cannot be set while it runs, or for one user."""
    if kind == "postgresql":
        return
    known = {row[0]: str(row[1]) for row in databases.administer(kind, "SHOW GLOBAL VARIABLES")}
    assert set(changed) - {"super_read_only"} <= set(known)
    found = list(findings_of(known | changed))
    assert len(found) == bool(said)
    assert all(said in finding for finding in found)
