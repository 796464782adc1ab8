"""The inbox: which messages have had their effect, remembered in the same transaction as the effect itself.

A message with an identity has a row of its own, inserted first; the primary key decides between two that come at once. Messages
that have a delivery id only share one row a batch (a redelivery is looked up there; other traffic pays no select).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.model.delivery import DONE
from holdfast.stores.base import Claim, Decision, Verdict

TRUE = b"TRUE"
_ROWS_A_STATEMENT = 150  # six values each stay below the 999 of older SQLite

TABLES = (
    """CREATE TABLE IF NOT EXISTS holdfast_inbox (scope TEXT NOT NULL, id BLOB NOT NULL, digest BLOB NOT NULL, outcome INTEGER NOT NULL,
       answer BLOB, seen_at REAL NOT NULL, PRIMARY KEY (scope, id)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS holdfast_batch (id INTEGER PRIMARY KEY, scope TEXT NOT NULL, epoch TEXT NOT NULL, low INTEGER NOT NULL,
       high INTEGER NOT NULL, data BLOB NOT NULL, seen_at REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS holdfast_batch_low ON holdfast_batch (scope, epoch, low)",
)


def hashed(identity: bytes) -> bytes:
    """The key of an identity: binary, of fixed length, so that no collation or truncation equates two."""
    return hashlib.blake2b(identity, digest_size=20).digest()


class Inbox:
    """The inbox of one job on one connection."""

    def __init__(self, connection: Connection, scope: str) -> None:
        self._connection = connection
        self._scope = scope
        self._granted: set[bytes] = set()  # in this transaction, with no outcome yet

    def begin(self) -> None:
        """A transaction begins: nothing is granted in it so far."""
        self._granted.clear()

    def claim(self, claims: Sequence[Claim]) -> list[Decision]:
        """Decide on each claim; see `holdfast.stores.base.Transaction.claim`."""
        fresh = self._insert({hashed(c.identity): c for c in reversed(claims) if c.identity is not None})
        decisions = []
        for claim in claims:
            if claim.identity is None:
                decisions.append(self._in_batches(claim) if claim.redelivered else Decision(Verdict.RUN))
            elif hashed(claim.identity) in fresh:
                decisions.append(self._first(claim, fresh))
            else:
                decisions.append(self._seen(claim))
        return decisions

    def _first(self, claim: Claim, fresh: dict[bytes, Claim]) -> Decision:
        """The first of an identity in this list runs; a second one asks again when the first one's answer is known."""
        assert claim.identity is not None
        owner = fresh[hashed(claim.identity)]
        if owner is claim:
            return Decision(Verdict.RUN)
        return Decision(Verdict.BUSY if owner.digest == claim.digest else Verdict.CLASH)

    def _insert(self, wanted: dict[bytes, Claim]) -> dict[bytes, Claim]:
        """Insert what is not there yet, sorted (two batches then never wait for each other in a circle); returns what was new."""
        keys, now, fresh = sorted(wanted), time.time(), {}
        for start in range(0, len(keys), _ROWS_A_STATEMENT):
            part = keys[start : start + _ROWS_A_STATEMENT]
            values: list[Any] = []
            for key in part:
                values += (self._scope, key, wanted[key].digest, DONE, None, now)
            groups = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(part))
            sql = f"INSERT INTO holdfast_inbox VALUES {groups} ON CONFLICT DO NOTHING RETURNING id"
            for (key,) in self._connection.exec_driver_sql(sql, tuple(values)):
                fresh[key] = wanted[key]
        self._granted.update(fresh)
        return fresh

    def _seen(self, claim: Claim) -> Decision:
        assert claim.identity is not None
        row = self._connection.exec_driver_sql(
            "SELECT digest, outcome, answer FROM holdfast_inbox WHERE scope = ? AND id = ?", (self._scope, hashed(claim.identity))
        ).one()
        if row[0] != claim.digest:
            return Decision(Verdict.CLASH)
        if hashed(claim.identity) in self._granted:
            return Decision(Verdict.BUSY)  # the row says DONE before it is done
        return Decision(Verdict.DONE, row[1], TRUE if row[2] is None else row[2])

    def _in_batches(self, claim: Claim) -> Decision:
        rows = self._connection.exec_driver_sql(
            "SELECT data FROM holdfast_batch WHERE scope = ? AND epoch = ? AND low <= ? AND high >= ?",
            (self._scope, f"{claim.epoch:x}", claim.seq, claim.seq),
        ).all()
        for (data,) in rows:
            for seq, outcome, answer in msgspec.msgpack.decode(data):
                if seq == claim.seq:
                    return Decision(Verdict.DONE, outcome, TRUE if answer is None else answer)
        return Decision(Verdict.RUN)

    def release(self, claims: Sequence[Claim]) -> None:
        """Take claims back that were granted in this transaction."""
        for claim in claims:
            if claim.identity is not None:
                self._granted.discard(hashed(claim.identity))
                self._connection.exec_driver_sql(
                    "DELETE FROM holdfast_inbox WHERE scope = ? AND id = ?", (self._scope, hashed(claim.identity))
                )

    def record(self, answers: Sequence[tuple[Claim, int, bytes]]) -> None:
        """Store outcomes: the row inserted by the claim says DONE and TRUE already, others are updated."""
        by_epoch: dict[int, list[tuple[int, int, bytes | None]]] = {}
        changed = []
        for claim, outcome, answer in answers:
            stored = None if answer == TRUE else answer
            if claim.identity is None:
                by_epoch.setdefault(claim.epoch, []).append((claim.seq, outcome, stored))
            else:
                key = hashed(claim.identity)
                self._granted.discard(key)
                if outcome != DONE or stored is not None:
                    changed.append((outcome, stored, self._scope, key))
        if changed:
            self._connection.exec_driver_sql("UPDATE holdfast_inbox SET outcome = ?, answer = ? WHERE scope = ? AND id = ?", changed)
        for epoch, rows in by_epoch.items():
            seqs = [row[0] for row in rows]
            self._connection.exec_driver_sql(
                "INSERT INTO holdfast_batch (scope, epoch, low, high, data, seen_at) VALUES (?, ?, ?, ?, ?, ?)",
                (self._scope, f"{epoch:x}", min(seqs), max(seqs), msgspec.msgpack.encode(rows), time.time()),
            )


@dataclass(frozen=True, slots=True)
class Sweep:
    """Where cleaning goes on: behind these keys. It walks along the primary keys, for an index on the time would cost every insert."""

    identity: bytes = b""
    batch: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The rows between `after` and `upto`, of which so many are old."""

    after: Sweep
    upto: Sweep
    before: float
    old: int


def look(connection: Connection, scope: str, sweep: Sweep, older_than: float, most: int) -> tuple[Sweep, Window]:
    """Look at the next `most` rows of either table; returns where the next look begins. Writes nothing."""
    before = time.time() - older_than
    upto, count, old = connection.exec_driver_sql(
        """SELECT max(id), count(*), coalesce(sum(seen_at < ?), 0) FROM
           (SELECT id, seen_at FROM holdfast_inbox WHERE scope = ? AND id > ? ORDER BY id LIMIT ?)""",
        (before, scope, sweep.identity, most),
    ).one()
    upto_batch, batches, old_batches = connection.exec_driver_sql(
        """SELECT max(id), count(*), coalesce(sum(seen_at < ? AND scope = ?), 0) FROM
           (SELECT id, scope, seen_at FROM holdfast_batch WHERE id > ? ORDER BY id LIMIT ?)""",
        (before, scope, sweep.batch, most),
    ).one()
    window = Window(sweep, Sweep(upto or b"", upto_batch or 0), before, old + old_batches)
    return Sweep(upto if count == most else b"", upto_batch if batches == most else 0), window


def forget(connection: Connection, scope: str, window: Window) -> int:
    """Delete the old rows of a window; returns how many went."""
    gone = 0
    for table, after, upto in (
        ("holdfast_inbox", window.after.identity, window.upto.identity),
        ("holdfast_batch", window.after.batch, window.upto.batch),
    ):
        sql = f"DELETE FROM {table} WHERE scope = ? AND id > ? AND id <= ? AND seen_at < ?"
        gone += connection.exec_driver_sql(sql, (scope, after, upto, window.before)).rowcount
    return gone
