"""The SQLite store as the engine sees it: claims within one transaction, and readers that wait for nobody."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.model.delivery import DONE
from holdfast.stores import open_store
from holdfast.stores.base import Claim, DeadLetter, Store, Verdict
from holdfast.stores.sqlite import file_system
from holdfast.stores.turn import Turn


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = open_store(f"sqlite:///{tmp_path}/a.db", "Fee")
    one.install("", lambda db: None)
    yield one
    one.close()


def _claim(identity: bytes, digest: bytes = b"d") -> Claim:
    return Claim(1, 1, identity, digest, False)


def test_an_identity_that_is_granted_and_not_done_is_busy(store: Store) -> None:
    connection = store.connect()
    transaction = connection.begin()
    assert transaction.claim([_claim(b"a")])[0].verdict is Verdict.RUN
    assert transaction.claim([_claim(b"a")])[0].verdict is Verdict.BUSY
    assert transaction.claim([_claim(b"a", b"other")])[0].verdict is Verdict.CLASH
    transaction.release([_claim(b"a")])
    assert transaction.claim([_claim(b"a")])[0].verdict is Verdict.RUN
    transaction.record([(_claim(b"a"), DONE, b"yes")])
    assert transaction.claim([_claim(b"a")])[0].answer == b"yes"
    transaction.rollback()
    transaction = connection.begin()
    assert transaction.claim([_claim(b"a")])[0].verdict is Verdict.RUN
    transaction.rollback()
    connection.close()


def _remember(store: Store, prefix: str, number: int) -> None:
    connection = store.connect()
    transaction = connection.begin()
    claims = [_claim(f"{prefix}{n}".encode()) for n in range(number)]
    transaction.claim(claims)
    transaction.record([(claim, DONE, b"TRUE") for claim in claims])
    transaction.record([(Claim(1, n, None, b"", False), DONE, b"TRUE") for n in range(number)])
    transaction.commit()
    connection.close()


def _age(store: Any, seconds: float, where: str = "1 = 1") -> None:
    for table in ("holdfast_inbox", "holdfast_batch"):
        store._once(lambda core, table=table: core.exec_driver_sql(f"UPDATE {table} SET seen_at = seen_at - {seconds} WHERE {where}"))


def _left(store: Any) -> tuple[int, int]:
    sql = "SELECT (SELECT count(*) FROM holdfast_inbox), (SELECT count(*) FROM holdfast_batch)"
    return tuple(store._read(lambda core: core.exec_driver_sql(sql).one()))


def test_the_inbox_is_cleaned_step_by_step_of_what_is_old(store: Store) -> None:
    _remember(store, "old", 40)
    _age(store, 100)
    _remember(store, "new", 40)
    assert _left(store) == (80, 2)
    gone = [store.clean(50.0, 10) for _ in range(12)]
    assert _left(store) == (40, 1)
    assert (sum(gone), max(gone)) == (41, max(gone))
    assert max(gone) <= 20, "a step looks at 10 rows of either table"
    assert [store.clean(50.0, 1000), store.clean(-1.0, 1000), _left(store)] == [0, 41, (0, 0)]


def test_cleaning_leaves_other_jobs_alone_and_writes_nothing_for_nothing(store: Store, tmp_path: Path) -> None:
    other = open_store(f"sqlite:///{tmp_path}/a.db", "Other")
    _remember(store, "a", 5)
    _remember(other, "b", 5)
    _age(store, 100, "scope = 'Other'")
    connection = other.connect()
    transaction = connection.begin()  # has the turn to write
    assert store.clean(50.0, 1000) == 0
    transaction.rollback()
    connection.close()
    assert _left(store) == (10, 2)
    other.close()


def test_reading_letters_waits_for_no_writer(store: Store) -> None:
    connection = store.connect()
    transaction = connection.begin()
    transaction.bury(DeadLetter("Fee", b"x", "why"))
    transaction.commit()
    transaction = connection.begin()
    transaction.bury(DeadLetter("Fee", b"y", "not committed"))
    assert [letter.reason for letter in store.letters().all()] == ["why"]
    transaction.rollback()
    connection.close()


MOUNTS = """22 1 0:21 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:26 / /srv rw shared:2 - nfs4 server:/srv rw
31 30 0:27 / /srv/local rw - xfs /dev/sdb1 rw
32 22 0:28 / /my\\040disk rw - cifs //server/disk rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/", "ext4"), ("/srv", "nfs4"), ("/srv/fee", "nfs4"), ("/srvfee", "ext4"), ("/srv/local/fee", "xfs"), ("/my disk/fee", "cifs")],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert file_system(path, MOUNTS) == kind


def test_a_local_store_has_no_findings(store: Store) -> None:
    assert store.findings() == []


def test_a_turn_that_cannot_be_taken_is_not_kept(tmp_path: Path) -> None:
    turn = Turn(str(tmp_path / "lock"))
    good, turn._fd = turn._fd, 9999
    with pytest.raises(OSError, match="Bad file descriptor"):
        turn.take()
    turn._fd = good
    turn.take()
    turn.give()
    turn.close()
