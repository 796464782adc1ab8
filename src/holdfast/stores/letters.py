"""Dead letters in the store: the letter in one row, its body in rows of 1 MiB, which every database takes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from holdfast.stores.base import DeadLetter

PART = 1 << 20

TABLES = (
    """CREATE TABLE IF NOT EXISTS holdfast_dead (id TEXT PRIMARY KEY, job TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
       trace TEXT NOT NULL, identity BLOB, message_id TEXT NOT NULL, headers TEXT NOT NULL, source TEXT NOT NULL, attempts INTEGER NOT NULL,
       died_at REAL NOT NULL, size INTEGER NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS holdfast_dead_body (letter TEXT NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL,
       PRIMARY KEY (letter, part))""",
)
_COLUMNS = "id, job, state, reason, trace, identity, message_id, headers, source, attempts, died_at, size"


def bury(connection: Connection, letter: DeadLetter) -> None:
    """Store a letter; gives it an id when it has none."""
    letter.id = letter.id or uuid.uuid4().hex[:16]
    letter.size = len(letter.body)
    headers = json.dumps(dict(letter.headers), default=repr)
    connection.exec_driver_sql(
        f"INSERT INTO holdfast_dead ({_COLUMNS}) VALUES (?, ?, 'dead', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(letter.id, letter.job, letter.reason, letter.trace, letter.identity, letter.message_id, headers, letter.source),
            *(letter.attempts, letter.died_at, letter.size),
        ),
    )
    for part, at in enumerate(range(0, len(letter.body), PART)):
        connection.exec_driver_sql("INSERT INTO holdfast_dead_body VALUES (?, ?, ?)", (letter.id, part, letter.body[at : at + PART]))


def attempt(connection: Connection, letter: DeadLetter) -> bool:
    """Note that a marked letter is being tried; see `holdfast.stores.base.Letters.attempt`. `attempts` says whose it is."""
    begun = letter.begun()
    sql = "UPDATE holdfast_dead SET state = 'dead', reason = ?, attempts = ? WHERE id = ? AND attempts = ? AND state = 'retry'"
    return bool(connection.exec_driver_sql(sql, (begun.reason, begun.attempts, letter.id, letter.attempts)).rowcount)


def put_back(connection: Connection, letter: DeadLetter) -> None:
    """Undo `attempt`; nothing when the letter is gone, or somebody else's by now."""
    sql = "UPDATE holdfast_dead SET state = 'retry', reason = ?, attempts = ? WHERE id = ? AND attempts = ?"
    connection.exec_driver_sql(sql, (letter.reason, letter.attempts, letter.id, letter.attempts + 1))


def unbury(connection: Connection, letter: DeadLetter) -> bool:
    """Take a letter out whose attempt this is; False when it is not there any more, or somebody else's."""
    sql = "DELETE FROM holdfast_dead WHERE id = ? AND attempts = ?"
    gone = connection.exec_driver_sql(sql, (letter.id, letter.attempts + 1)).rowcount
    if gone:
        connection.exec_driver_sql("DELETE FROM holdfast_dead_body WHERE letter = ?", (letter.id,))
    return bool(gone)


def select(connection: Connection, where: str, values: tuple[Any, ...], *, bodies: bool) -> list[DeadLetter]:
    """Letters in the order of their death."""
    rows = connection.exec_driver_sql(f"SELECT {_COLUMNS} FROM holdfast_dead WHERE {where} ORDER BY died_at, id", values).all()
    return [_letter(row, _body(connection, row[0]) if bodies else b"") for row in rows]


def change(connection: Connection, sql: str, letter_ids: Sequence[str] | None, job: str | None) -> int:
    """Run `sql … WHERE` for these letters of the job; None means all."""
    where = "1 = 1"
    values: list[str] = []
    if letter_ids is not None:
        where += f" AND id IN ({', '.join('?' * len(letter_ids))})"
        values += letter_ids
    if job is not None:
        where += " AND job = ?"
        values.append(job)
    return connection.exec_driver_sql(sql + where, tuple(values)).rowcount


def _body(connection: Connection, letter_id: str) -> bytes:
    rows = connection.exec_driver_sql("SELECT data FROM holdfast_dead_body WHERE letter = ? ORDER BY part", (letter_id,)).all()
    return b"".join(row[0] for row in rows)


def _letter(row: Any, body: bytes) -> DeadLetter:
    (letter_id, job, state, reason, trace, identity, message_id, headers, source, attempts, died_at, size) = row
    return DeadLetter(
        job, body, reason, trace, identity, message_id, json.loads(headers), source, attempts, died_at, id=letter_id, state=state, size=size
    )
