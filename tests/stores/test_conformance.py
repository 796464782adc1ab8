"""What every store promises, tried on SQLite, MariaDB and PostgreSQL alike."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast.errors import AppError, HoldfastError
from holdfast.model.delivery import DONE, FAILED
from holdfast.stores.base import Claim, DeadLetter, Fault, Verdict
from holdfast.stores.direct import Written
from holdfast.testing.databases import query

TABLE = "CREATE TABLE IF NOT EXISTS account (name VARCHAR(50), volume NUMERIC(20, 4), note TEXT)"
ADD = "INSERT INTO account (name, volume) VALUES (:n, 1)"


def claim(identity: bytes | None, seq: int = 1, digest: bytes = b"d" * 16, redelivered: bool = False) -> Claim:
    return Claim(7, seq, identity, digest, redelivered)


def verdicts(transaction: Any, *claims: Claim) -> list[Verdict]:
    return [decision.verdict for decision in transaction.claim(claims)]


@pytest.fixture
def connection(store: Any, connect: Callable[..., Any]) -> Any:
    store.install(TABLE, lambda db: None)
    return connect()


def names(url: str) -> list[str]:
    return [row[0] for row in query(url, "SELECT name FROM account ORDER BY name")]


def begin(connection: Any) -> Any:
    transaction = connection.begin()
    transaction.begin_message()
    return transaction


# Transactions and their proof


def test_what_is_committed_is_there_and_what_is_rolled_back_is_not(connection: Any, url: str) -> None:
    transaction = begin(connection)
    assert not transaction.touched()
    transaction.db.execute(ADD, {"n": "a"})
    assert transaction.touched()
    assert transaction.proof() == ""
    assert names(url) == []
    transaction.commit()
    transaction = begin(connection)
    transaction.db.execute(ADD, {"n": "b"})
    transaction.rollback()
    transaction.rollback()
    assert names(url) == ["a"]


ENDINGS = ["COMMIT", "ROLLBACK", "/* x */ commit", "SAVEPOINT mine", "BEGIN", "ROLLBACK TO SAVEPOINT sa_savepoint_1; COMMIT"]


@pytest.mark.parametrize("statement", ENDINGS)
def test_a_handler_cannot_end_the_transaction(connection: Any, url: str, statement: str) -> None:
    transaction = begin(connection)
    transaction.db.execute(ADD, {"n": "before"})
    with pytest.raises(Exception):  # noqa: B017
        transaction.db.execute(statement)
    assert transaction.proof()
    transaction.rollback()
    assert names(url) == []


def test_the_core_connection_cannot_end_it_either(connection: Any) -> None:
    transaction = begin(connection)
    with pytest.raises(HoldfastError):
        transaction.db.connection.commit()
    transaction.rollback()


def test_a_swallowed_error_breaks_the_proof_and_one_inside_a_savepoint_does_not(connection: Any, url: str) -> None:
    transaction = begin(connection)
    transaction.db.execute(ADD, {"n": "a"})
    with pytest.raises(sqlalchemy.exc.DBAPIError), transaction.db.savepoint():
        transaction.db.execute("INSERT INTO no_such_table VALUES (1)")
    assert transaction.proof() == ""
    transaction.db.execute(ADD, {"n": "b"})
    transaction.commit()
    assert names(url) == ["a", "b"]
    transaction = begin(connection)
    with pytest.raises(sqlalchemy.exc.DBAPIError):
        transaction.db.execute("INSERT INTO no_such_table VALUES (1)")
    assert "swallowed" in transaction.proof()
    transaction.rollback()
    assert begin(connection).proof() == ""


def test_a_savepoint_undoes_alone(connection: Any, url: str) -> None:
    transaction = begin(connection)
    for name in "abc":
        try:
            with transaction.savepoint():
                transaction.db.execute(ADD, {"n": name})
                if name == "b":
                    raise ValueError
        except ValueError:
            assert transaction.proof() == ""
    transaction.commit()
    assert names(url) == ["a", "c"]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    name: Mapped[str] = mapped_column(primary_key=True)
    note: Mapped[str]


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
def test_an_orm_session_ends_its_savepoint_only(connection: Any, url: str, how: str) -> None:
    transaction = begin(connection)
    transaction.db.execute(ADD, {"n": "before"})
    session = transaction.db.session()
    session.add(Account(name="orm", note="x"))
    session.flush()
    getattr(session, how)()
    transaction.db.execute(ADD, {"n": "behind"})
    assert transaction.proof() == ""
    transaction.commit()
    assert set(names(url)) == {"before", "behind", *(["orm"] if how == "commit" else [])}


# The inbox


def test_an_identity_is_granted_once_and_its_answer_is_kept(connection: Any, connect: Callable[..., Any]) -> None:
    transaction = connection.begin()
    assert verdicts(transaction, claim(b"a"), claim(b"a"), claim(b"a", digest=b"x" * 16), claim(b"b")) == [
        *(Verdict.RUN, Verdict.BUSY, Verdict.CLASH, Verdict.RUN)
    ]
    assert verdicts(transaction, claim(b"a")) == [Verdict.BUSY]
    transaction.release([claim(b"b")])
    transaction.record([(claim(b"a"), DONE, b"yes")])
    transaction.commit()
    transaction = connect().begin()
    known, clash, free = transaction.claim([claim(b"a"), claim(b"a", digest=b"y" * 16), claim(b"b")])
    assert (known.verdict, known.outcome, known.answer) == (Verdict.DONE, DONE, b"yes")
    assert (clash.verdict, free.verdict) == (Verdict.CLASH, Verdict.RUN)
    transaction.record([(claim(b"b"), FAILED, b"F" * 70_000)])
    assert transaction.claim([claim(b"b")])[0].answer == b"F" * 70_000
    transaction.rollback()


def test_identities_that_look_alike_are_different(connection: Any) -> None:
    alike = [b"ABC", b"abc", b"ABC ", b"ABC\0", "\u00e9".encode(), "e\u0301".encode(), b"x" * 5000, b"x" * 5001, b""]
    transaction = connection.begin()
    assert verdicts(transaction, *map(claim, alike)) == [Verdict.RUN] * len(alike)
    transaction.rollback()


def test_a_scope_is_a_job(opened: Callable[..., Any], store: Any, connect: Callable[..., Any]) -> None:
    for job in ("Fee", "fee", "Fee2"):
        transaction = connect(opened(job)).begin()
        assert verdicts(transaction, claim(b"a")) == [Verdict.RUN], job
        transaction.record([(claim(b"a"), DONE, b"TRUE")])
        transaction.commit()


def test_delivery_ids_are_looked_up_when_they_come_again(connection: Any, connect: Callable[..., Any]) -> None:
    seqs = [1, 2, 4095, 4096, 9000]
    transaction = connection.begin()
    assert verdicts(transaction, *(claim(None, seq) for seq in seqs)) == [Verdict.RUN] * 5
    transaction.record([(claim(None, seq), DONE if seq != 2 else FAILED, b"TRUE" if seq != 4096 else b"\0own") for seq in seqs])
    transaction.commit()
    transaction = connect().begin()
    again = transaction.claim([claim(None, seq, redelivered=True) for seq in [*seqs, 3]])
    assert [decision.verdict for decision in again] == [*[Verdict.DONE] * 5, Verdict.RUN]
    assert (again[1].outcome, again[3].answer, again[0].answer) == (FAILED, b"\0own", b"TRUE")
    assert transaction.claim([claim(None, 1, redelivered=True)._replace(epoch=8)])[0].verdict is Verdict.RUN
    transaction.rollback()


def test_many_claims_at_once(connection: Any, connect: Callable[..., Any]) -> None:
    claims = [claim(b"%d" % n, n) for n in range(1200)]
    transaction = connection.begin()
    assert set(verdicts(transaction, *claims)) == {Verdict.RUN}
    transaction.record([(one, DONE, b"answer %d" % one.seq) for one in claims])
    transaction.release(claims[:400])
    transaction.commit()
    transaction = connect().begin()
    decisions = transaction.claim(claims)
    assert [d.answer for d in decisions[400:]] == [b"answer %d" % n for n in range(400, 1200)]
    assert {d.verdict for d in decisions[:400]} == {Verdict.RUN}
    transaction.rollback()


# Dead letters


def test_a_dead_letter_keeps_every_byte(store: Any, connection: Any) -> None:
    body = bytes(range(256)) * (12 << 10)  # 3 MiB, in rows of one
    transaction = connection.begin()
    transaction.bury(DeadLetter("Fee", body, "why \0 \ud800 é", "trace", b"\x00id\xff", "m1", {"topic": "x\0"}, "zmq", 3, 12.5))
    transaction.bury(DeadLetter("Fee", b"", "empty", died_at=11.0))
    transaction.bury(DeadLetter("Mail", b"m", "other", died_at=13.0))
    transaction.commit()
    letters = store.letters()
    first, second = letters.all("Fee")
    assert (first.reason, second.size, second.body, len(letters.all())) == ("empty", len(body), b"", 3)
    whole = letters.show(second.id)
    assert (whole.body, whole.identity, whole.headers, whole.attempts, whole.died_at) == (body, b"\x00id\xff", {"topic": "x\0"}, 3, 12.5)
    assert whole.reason == "why \\x00 \\ud800 é"
    assert [letters.mark([second.id]), letters.mark([second.id]), letters.mark(["unknown"])] == [1, 0, 0]
    (marked,) = letters.marked("Fee", 10)
    assert [letters.attempt(marked), letters.attempt(marked)] == [True, False]
    transaction = connection.begin()
    assert [transaction.unbury(marked), transaction.unbury(marked)] == [True, False]
    transaction.commit()
    assert letters.show(second.id) is None
    assert [letters.drop(None, "Fee"), letters.drop(None, "Fee"), letters.drop(None)] == [1, 0, 1]


# Statements


def test_statement_strings_and_lists(connection: Any) -> None:
    transaction = begin(connection)
    db = transaction.db
    note = """{"a":1} 100% :no 'x=:y' %s ? \\"""
    db.execute("INSERT INTO account (name, volume, note) VALUES (:n, :v, :t)", {"n": "a", "v": "1.5", "t": note})
    db.execute("INSERT INTO account (name, volume, note) VALUES ('b', 2, '{\"a\":1} 100% :no %s ?')")
    assert db.execute("SELECT note FROM account WHERE name = :n -- :no\n AND name = :n", {"n": "a"}).scalar() == note
    assert db.execute("SELECT note FROM account WHERE name = 'b'").scalar() == '{"a":1} 100% :no %s ?'
    assert db.execute("SELECT count(*) FROM account WHERE name IN :names AND note LIKE '%:no%'", {"names": ["a", "b", "c"]}).scalar() == 2
    assert db.execute("SELECT count(*) FROM account WHERE name IN :names", {"names": []}).scalar() == 0
    assert db.execute(sqlalchemy.text("SELECT count(*) FROM account WHERE name = :n"), {"n": "a"}).scalar() == 1
    assert db.execute(sqlalchemy.select(Account.note).where(Account.name == "a")).scalar() == note
    with pytest.raises(HoldfastError, match="empty list"):
        db.execute(ADD, [])
    assert transaction.proof() == ""
    transaction.rollback()


def test_a_list_of_rows_is_one_statement_whatever_the_literals(connection: Any, kind: str, url: str) -> None:
    sent: list[str] = []
    sqlalchemy.event.listen(connection.core, "before_cursor_execute", lambda *a: sent.append(a[2]))
    transaction = begin(connection)
    sql = "INSERT INTO account (name, volume, note) VALUES (:n, 0 + :v, 'a), (:b %') -- :c"
    result = transaction.db.execute(sql, [{"n": f"n{n:03}", "v": n} for n in range(300)])
    assert result.rowcount == 300
    transaction.db.execute("UPDATE account SET volume = :v WHERE name = :n", [{"n": "n001", "v": 7}, {"n": "n002", "v": 8}])
    assert transaction.proof() == ""
    transaction.commit()
    rows = query(url, "SELECT name, volume, note FROM account ORDER BY name")
    assert [(name, int(volume)) for name, volume, _ in rows[:4]] == [("n000", 0), ("n001", 7), ("n002", 8), ("n003", 3)]
    assert {note for _, _, note in rows} == {"a), (:b %"}
    assert len([s for s in sent if s.startswith("INSERT")]) == 1
    assert len(rows) == 300


WRITES = ["UPDATE account SET volume = :v WHERE name = :n", "DELETE FROM account WHERE name = :n AND volume < :v", ADD]


@pytest.mark.parametrize("sql", WRITES)
def test_what_gives_no_rows_goes_to_the_driver_and_looks_the_same(connection: Any, sql: str) -> None:
    transaction = begin(connection)
    db, values = transaction.db, {"n": "a", "v": 5}
    db.execute(ADD, {"n": "a"})
    short = db.execute(sql, values)
    assert isinstance(short, Written)
    with db.savepoint():
        db.execute("DELETE FROM account")
        db.execute(ADD, {"n": "a"})
        long = db.execute(sql, values)
    assert not isinstance(long, Written)
    assert (short.rowcount, short.returns_rows) == (long.rowcount, long.returns_rows) == (1, False)
    for result in (short, long):
        with pytest.raises(sqlalchemy.exc.ResourceClosedError):
            result.all()
        result.close()
    assert transaction.proof() == ""
    transaction.rollback()


def insert_twice(db: Any, sql: str, rows: Any, around: AbstractContextManager[None]) -> None:
    with around:
        db.execute(sql, {"n": "a"})
        db.execute(sql, rows)


@pytest.mark.parametrize("rows", [{"n": "a"}, [{"n": "a"}]])
def test_errors_are_those_of_sqlalchemy_by_either_way(store: Any, connection: Any, rows: Any) -> None:
    store.install("CREATE TABLE single (name VARCHAR(50) PRIMARY KEY, volume INTEGER NOT NULL)", lambda _db: None)
    sql, told = "INSERT INTO single (name, volume) VALUES (:n, 1)", []
    for long in (False, True):
        transaction = begin(connection)
        with pytest.raises(sqlalchemy.exc.IntegrityError) as caught:
            insert_twice(transaction.db, sql, rows, transaction.db.savepoint() if long else nullcontext())
        told.append((caught.value.statement, caught.value.params, type(caught.value.orig), caught.value.connection_invalidated))
        assert ("swallowed" in transaction.proof()) is not long
        transaction.rollback()
    assert told[0] == told[1]


def test_who_listens_to_statements_hears_them_all(connection: Any) -> None:
    sent: list[str] = []
    sqlalchemy.event.listen(connection.core, "after_cursor_execute", lambda *a: sent.append(a[2]))
    transaction = begin(connection)
    transaction.db.execute(ADD, {"n": "a"})
    transaction.rollback()
    assert [sql for sql in sent if sql.startswith("INSERT INTO account")]


def test_rows_of_many_bytes_go_in_several_statements(connection: Any, url: str) -> None:
    transaction = begin(connection)
    transaction.db.execute("INSERT INTO account (name, note) VALUES (:n, :t)", [{"n": str(n), "t": "x" * 60_000} for n in range(100)])
    transaction.commit()
    assert query(url, "SELECT count(*), sum(length(note)) FROM account") == [(100, 6_000_000)]


# Making the tables


def test_schema_and_prepare(store: Any, url: str, kind: str) -> None:
    schema = f"{TABLE}; CREATE TABLE other (x VARCHAR(9) DEFAULT ';%') -- a; comment"
    store.install(schema, lambda db: db.execute("INSERT INTO account (name) VALUES ('100%')"))
    assert names(url) == ["100%"]
    with pytest.raises(AppError, match=r"this is the statement:\nCREATE TABLE nonsense"):
        store.install("CREATE TABLE nonsense (", lambda db: None)
    with pytest.raises(ZeroDivisionError):
        store.install("", lambda db: db.execute(ADD, {"n": "not kept"}) and 1 / 0)
    assert names(url) == ["100%"]


def test_many_hosts_make_the_tables_at_once(opened: Callable[..., Any], url: str) -> None:
    errors: list[BaseException] = []

    def install(one: Any) -> None:
        try:
            one.install(TABLE, lambda db: None)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=install, args=(opened(timeout=90.0),)) for _ in range(4)]  # each waits for the others
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names(url) == []


# Cleaning


def test_cleaning_forgets_what_is_old_in_chunks(connection: Any, url: str, opened: Callable[..., Any]) -> None:
    for start in (0, 50):
        transaction = connection.begin()
        claims = [claim(b"%d" % n, n) for n in range(start, start + 50)] + [claim(None, start + 1)]
        transaction.claim(claims)
        transaction.record([(one, DONE, b"TRUE") for one in claims])
        transaction.commit()
        if start == 0:
            query(url, "UPDATE holdfast_inbox SET seen_at = 1", "UPDATE holdfast_batch SET seen_at = 1")
    other, store = opened("Other"), opened()
    assert other.clean(60.0, 1000) == 0
    gone = [store.clean(60.0, 30) for _ in range(6)]
    assert max(gone) <= 60
    assert sum(gone) == 51
    assert query(url, "SELECT count(*) FROM holdfast_inbox") == [(50,)]
    assert query(url, "SELECT count(*) FROM holdfast_batch") == [(1,)]
    assert begin(connection).proof() == ""


def test_errors_are_told_apart(store: Any, connection: Any) -> None:
    transaction = begin(connection)
    with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
        transaction.db.execute("SELECT * FROM no_such_table")
    assert store.fault(caught.value) is Fault.MESSAGE
    assert store.fault(ValueError("x")) is Fault.MESSAGE
    transaction.rollback()
