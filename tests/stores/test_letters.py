"""Dead letters keep every byte, wherever they lie, and come back once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.stores import open_store
from holdfast.stores.base import DeadLetter
from holdfast.stores.letter_files import LetterFiles

BODY = bytes(range(256)) * (12 << 10)  # 3 MiB


def _in_file(folder: Path) -> tuple[Any, Callable[[DeadLetter], None], Callable[[DeadLetter], bool]]:
    files = LetterFiles(str(folder))
    return files, files.bury, files.unbury


def _in_store(folder: Path) -> tuple[Any, Callable[[DeadLetter], None], Callable[[DeadLetter], bool]]:
    store = open_store(f"sqlite:///{folder}/a.db", "Fee")
    store.install("", lambda db: None)
    connection = store.connect()

    def once(work: Callable[[Any], Any]) -> Any:
        transaction = connection.begin()
        result = work(transaction)
        transaction.commit()
        return result

    return store.letters(), lambda letter: once(lambda t: t.bury(letter)), lambda letter: once(lambda t: t.unbury(letter))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("place", [_in_file, _in_store])
def test_a_letter_is_kept_whole_and_retried_once(tmp_path: Path, place: Callable[..., Any]) -> None:
    letters, bury, unbury = place(tmp_path)
    bury(DeadLetter("Fee", BODY, "why", "trace", b"\x00id\xff", "m1", {"topic": "x"}, "zmq", 3, 12.5))
    bury(DeadLetter("Fee", b"", "empty", died_at=11.0))
    bury(DeadLetter("Mail", b"m", "other", died_at=13.0))
    first, second = letters.all("Fee")
    assert (first.reason, second.size, second.body, len(letters.all())) == ("empty", len(BODY), b"", 3)
    whole = letters.show(second.id)
    assert (whole.body, whole.identity, whole.headers, whole.attempts, whole.died_at) == (BODY, b"\x00id\xff", {"topic": "x"}, 3, 12.5)
    assert not letters.attempt(whole)
    assert [letters.mark([second.id]), letters.mark([second.id]), letters.mark(["unknown"])] == [1, 0, 0]
    (marked,) = letters.marked("Fee", 10)
    assert (marked.body, marked.state) == (BODY, "retry")
    assert [letters.attempt(marked), letters.attempt(marked)] == [True, False]
    behind = letters.show(second.id)
    assert (behind.state, behind.attempts, "never ended" in behind.reason, behind.body) == ("dead", 4, True, BODY)
    assert letters.marked("Fee", 10) == []
    letters.put_back(marked)
    assert letters.marked("Fee", 10) == [marked]
    assert letters.attempt(marked)
    letters.mark([second.id])
    (asked_again,) = letters.marked("Fee", 10)
    assert (letters.attempt(asked_again), asked_again.attempts) == (True, 4)
    assert [unbury(marked), unbury(asked_again), unbury(asked_again)] == [False, True, False]
    assert letters.show(second.id) is None
    assert [letters.drop(None, "Fee"), letters.drop(None, "Fee"), letters.drop(None)] == [1, 0, 1]
