"""The SQLite store as the engine sees it: claims within one transaction, and readers that wait for nobody."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.model.delivery import DONE
from holdfast.stores import open_store
from holdfast.stores.base import Claim, DeadLetter, Store, Verdict
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


def test_a_turn_that_cannot_be_taken_is_not_kept(tmp_path: Path) -> None:
    turn = Turn(str(tmp_path / "lock"))
    good, turn._fd = turn._fd, 9999
    with pytest.raises(OSError, match="Bad file descriptor"):
        turn.take()
    turn._fd = good
    turn.take()
    turn.give()
    turn.close()
