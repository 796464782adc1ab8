"""Dead letters in the store: the letter in one row, its body in rows of 1 MiB, which every database takes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from holdfast.stores.base import DeadLetter
from holdfast.stores.statements import own

PART = 1 << 20
_COLUMNS = "id, job, state, reason, trace, identity, message_id, headers, source, attempts, died_at, size"
R = TypeVar("R")
Work = Callable[[Connection], R]


def bury(connection: Connection, letter: DeadLetter) -> None:
    """Store a letter; gives it an id when it has none."""
    letter.id = letter.id or uuid.uuid4().hex[:16]
    letter.size = len(letter.body)
    texts = [_storable(text) for text in (letter.reason, letter.trace, letter.message_id, json.dumps(dict(letter.headers), default=repr))]
    own(
        connection,
        f"INSERT INTO holdfast_dead ({_COLUMNS}) VALUES (?, ?, 'dead', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(letter.id, letter.job, *texts[:2], letter.identity, *texts[2:], _storable(letter.source)),
            *(letter.attempts, letter.died_at, letter.size),
        ),
    )
    for part, at in enumerate(range(0, len(letter.body), PART)):
        sql = "INSERT INTO holdfast_dead_body (letter, part, data) VALUES (?, ?, ?)"
        own(connection, sql, (letter.id, part, letter.body[at : at + PART]))


def _storable(text: str) -> str:
    """Text that every database takes: PostgreSQL has no NUL, none has half a character."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _attempt(connection: Connection, letter: DeadLetter) -> bool:
    """`attempts` says whose it is."""
    begun = letter.begun()
    sql = "UPDATE holdfast_dead SET state = 'dead', reason = ?, attempts = ? WHERE id = ? AND attempts = ? AND state = 'retry'"
    return bool(own(connection, sql, (_storable(begun.reason), begun.attempts, letter.id, letter.attempts)).rowcount)


def _put_back(connection: Connection, letter: DeadLetter) -> None:
    """Nothing when the letter is gone, or somebody else's by now."""
    sql = "UPDATE holdfast_dead SET state = 'retry', reason = ?, attempts = ? WHERE id = ? AND attempts = ?"
    own(connection, sql, (letter.reason, letter.attempts, letter.id, letter.attempts + 1))


def unbury(connection: Connection, letter: DeadLetter) -> bool:
    """Take a letter out whose attempt this is; False when it is not there any more, or somebody else's."""
    gone = own(connection, "DELETE FROM holdfast_dead WHERE id = ? AND attempts = ?", (letter.id, letter.attempts + 1)).rowcount
    if gone:
        own(connection, "DELETE FROM holdfast_dead_body WHERE letter = ?", (letter.id,))
    return bool(gone)


class StoredLetters:
    """Dead letters outside of a worker's transaction. `read` and `write` run something on a connection, in a transaction of its own."""

    def __init__(self, read: Callable[[Work[Any]], Any], write: Callable[[Work[Any]], Any]) -> None:
        self._read = read
        self._write = write

    def all(self, job: str | None = None) -> list[DeadLetter]:
        return self._select("job = ?" if job else "1 = 1", (job,) if job else (), bodies=False)

    def show(self, letter_id: str) -> DeadLetter | None:
        found = self._select("id = ?", (letter_id,), bodies=True)
        return found[0] if found else None

    def mark(self, letter_ids: Sequence[str] | None, job: str | None = None) -> int:
        return self._change("UPDATE holdfast_dead SET state = 'retry' WHERE state = 'dead' AND ", letter_ids, job)

    def drop(self, letter_ids: Sequence[str] | None, job: str | None = None) -> int:
        gone = self._change("DELETE FROM holdfast_dead WHERE ", letter_ids, job)
        sql = "DELETE FROM holdfast_dead_body WHERE letter NOT IN (SELECT id FROM holdfast_dead)"
        self._write(lambda core: own(core, sql).rowcount)
        return gone

    def marked(self, job: str, most: int) -> list[DeadLetter]:
        return self._select("job = ? AND state = 'retry'", (job,), bodies=True, most=most)

    def attempt(self, letter: DeadLetter) -> bool:
        return bool(self._write(lambda core: _attempt(core, letter)))

    def put_back(self, letter: DeadLetter) -> None:
        self._write(lambda core: _put_back(core, letter))

    def _select(self, where: str, values: tuple[Any, ...], *, bodies: bool, most: int = -1) -> list[DeadLetter]:
        found: list[DeadLetter] = self._read(lambda core: _select(core, where, values, bodies=bodies, most=most))
        return found

    def _change(self, sql: str, letter_ids: Sequence[str] | None, job: str | None) -> int:
        count: int = self._write(lambda core: _change(core, sql, letter_ids, job))
        return count


def _select(connection: Connection, where: str, values: tuple[Any, ...], *, bodies: bool, most: int) -> list[DeadLetter]:
    """Letters in the order of their death."""
    limit = f" LIMIT {most}" if most >= 0 else ""
    rows = own(connection, f"SELECT {_COLUMNS} FROM holdfast_dead WHERE {where} ORDER BY died_at, id{limit}", values).all()
    return [_letter(row, _body(connection, row[0]) if bodies else b"") for row in rows]


def _change(connection: Connection, sql: str, letter_ids: Sequence[str] | None, job: str | None) -> int:
    """Run `sql … WHERE` for these letters of the job; None means all."""
    where = "1 = 1"
    values: list[str] = []
    if letter_ids is not None:
        where += f" AND id IN ({', '.join('?' * len(letter_ids))})"
        values += letter_ids
    if job is not None:
        where += " AND job = ?"
        values.append(job)
    count: int = own(connection, sql + where, tuple(values)).rowcount
    return count


def _body(connection: Connection, letter_id: str) -> bytes:
    rows = own(connection, "SELECT data FROM holdfast_dead_body WHERE letter = ? ORDER BY part", (letter_id,)).all()
    return b"".join(row[0] for row in rows)


def _letter(row: Any, body: bytes) -> DeadLetter:
    (letter_id, job, state, reason, trace, identity, message_id, headers, source, attempts, died_at, size) = row
    return DeadLetter(
        job, body, reason, trace, identity, message_id, json.loads(headers), source, attempts, died_at, id=letter_id, state=state, size=size
    )
