"""The inbox: which messages have had their effect, remembered in the same transaction as the effect itself.

A message with an identity has a row of its own, inserted first; the primary key decides between two that come at once. Messages
that have a delivery id only share one row a batch (a redelivery is looked up there; other traffic pays no select).

What differs between databases is in their own files: how rows are inserted that may be there, and how one waits for a commit that
a lost connection has left under way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from holdfast.model.delivery import DONE
from holdfast.stores.base import Claim, Decision, Verdict
from holdfast.stores.statements import own

TRUE = b"TRUE"
ROWS_A_STATEMENT = 150  # six values each stay below the 999 of older SQLite
_BLOCK = 12  # a row of holdfast_batch covers sequences that agree but for so many bits

Row = tuple[bytes, int, bytes | None]
_RUN = Decision(Verdict.RUN)


def hashed(identity: bytes) -> bytes:
    """The key of an identity: binary, of fixed length, so that no collation or truncation equates two."""
    return hashlib.blake2b(identity, digest_size=20).digest()


class Inbox:
    """The inbox of one job on one connection; as it is, SQLite's."""

    def __init__(self, connection: Connection, scope: str) -> None:
        self._connection = connection
        self._scope = scope
        self._granted: set[bytes] = set()  # in this transaction, with no outcome yet
        self._keys: dict[bytes, bytes] = {}  # of the identities that were claimed in this transaction

    def begin(self) -> None:
        """A transaction begins: nothing is granted in it so far."""
        self._granted.clear()
        self._keys.clear()

    def claim(self, claims: Sequence[Claim]) -> list[Decision]:
        """Decide on each claim; see `holdfast.stores.base.Transaction.claim`."""
        delivered = [claim for claim in claims if claim.identity is None and claim.redelivered]
        done = self._in_batches(delivered) if delivered else {}
        wanted = {self._key(c.identity): c for c in reversed(claims) if c.identity is not None}
        if not wanted and not done:
            return [_RUN] * len(claims)
        fresh, busy = self._insert_or_wait(sorted(wanted), wanted) if wanted else (set(), set())
        self._granted |= fresh
        seen = self._rows(key for key in wanted if key not in fresh and key not in busy)
        decisions = []
        for claim in claims:
            if claim.identity is None:
                decisions.append(done.get((claim.epoch, claim.seq)) or _RUN)
                continue
            key = self._keys[claim.identity]
            if key in fresh:
                decisions.append(_first(claim, wanted[key]))
            else:
                decisions.append(Decision(Verdict.BUSY) if key in busy else self._seen(claim, key, seen))
        return decisions

    def _key(self, identity: bytes) -> bytes:
        key = self._keys.get(identity)
        if key is None:
            key = self._keys[identity] = hashed(identity)
        return key

    def _insert_or_wait(self, keys: list[bytes], wanted: dict[bytes, Claim]) -> tuple[set[bytes], set[bytes]]:
        """Insert what is not there yet, sorted (two batches then never wait for each other in a circle); what was new, what is contested.

        In its general form a contested identity is waited for only so long, and then set aside; its batch goes on.
        """
        try:
            return self._insert_all(keys, wanted), set()
        except Exception as error:
            if not self._contested(error):
                raise
        self._begin_again()
        fresh: set[bytes] = set()
        busy: set[bytes] = set()
        for key in keys:
            try:
                with self._connection.begin_nested():
                    fresh |= self._insert([key], wanted)
            except Exception as error:
                if not self._contested(error):
                    raise
                busy.add(key)
        self._be_patient()
        return fresh, busy

    def _insert_all(self, keys: list[bytes], wanted: dict[bytes, Claim]) -> set[bytes]:
        fresh: set[bytes] = set()
        for start in range(0, len(keys), ROWS_A_STATEMENT):
            fresh |= self._insert(keys[start : start + ROWS_A_STATEMENT], wanted)
        return fresh

    def _insert(self, keys: list[bytes], wanted: dict[bytes, Claim]) -> set[bytes]:
        """Insert these where they are not there yet; returns those that were new."""
        now, values = time.time(), []
        for key in keys:
            values += [self._scope, key, wanted[key].digest, DONE, None, now]
        groups = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(keys))
        sql = (
            f"INSERT INTO holdfast_inbox (scope, id, digest, outcome, answer, seen_at) VALUES {groups} ON CONFLICT DO NOTHING RETURNING id"
        )
        return {bytes(row[0]) for row in own(self._connection, sql, tuple(values))}

    def _contested(self, _error: Exception) -> bool:
        """Whether the error says that another transaction held one of them for too long."""
        return False

    def _begin_again(self) -> None:
        """After a contested insert: make the transaction usable, and impatient."""

    def _be_patient(self) -> None:
        """Undo the impatience."""

    def _rows(self, keys: Iterable[bytes]) -> dict[bytes, Row]:
        every, found = list(keys), {}
        for part in _parts(every):
            marks = ", ".join("?" * len(part))
            sql = f"SELECT id, digest, outcome, answer FROM holdfast_inbox WHERE scope = ? AND id IN ({marks})"
            for row in own(self._connection, sql, (self._scope, *part)):
                found[bytes(row[0])] = (bytes(row[1]), row[2], row[3])
        return found

    def _seen(self, claim: Claim, key: bytes, seen: dict[bytes, Row]) -> Decision:
        if key not in seen:
            return Decision(Verdict.BUSY)  # forgotten since
        digest, outcome, answer = seen[key]
        if digest != claim.digest:
            return Decision(Verdict.CLASH)
        if key in self._granted:
            return Decision(Verdict.BUSY)  # the row says DONE before it is done
        return Decision(Verdict.DONE, outcome, TRUE if answer is None else bytes(answer))

    def _in_batches(self, claims: list[Claim]) -> dict[tuple[int, int], Decision]:
        """What was done under a delivery id, by epoch and sequence."""
        self._await_commits(claims)
        found = {}
        for epoch, block in sorted({(claim.epoch, claim.seq >> _BLOCK) for claim in claims}):
            for (data,) in own(self._connection, self._lookup(), (self._scope, f"{epoch:x}", block)).all():
                for seq, outcome, answer in msgspec.msgpack.decode(data):
                    found[epoch, seq] = Decision(Verdict.DONE, outcome, TRUE if answer is None else answer)
        return found

    def _lookup(self) -> str:
        return "SELECT data FROM holdfast_batch WHERE scope = ? AND epoch = ? AND block = ?"

    def _await_commits(self, claims: list[Claim]) -> None:
        """Wait until no transaction that may have done these is in the middle of its commit."""

    def release(self, claims: Sequence[Claim]) -> None:
        """Take claims back that were granted in this transaction."""
        keys = [self._key(claim.identity) for claim in claims if claim.identity is not None]
        self._granted.difference_update(keys)
        for part in _parts(sorted(keys)):
            own(
                self._connection,
                f"DELETE FROM holdfast_inbox WHERE scope = ? AND id IN ({', '.join('?' * len(part))})",
                (self._scope, *part),
            )

    def record(self, answers: Sequence[tuple[Claim, int, bytes]]) -> None:
        """Store outcomes: the row inserted by the claim says DONE and TRUE already, others are updated."""
        blocks: dict[tuple[int, int], list[tuple[int, int, bytes | None]]] = {}
        changed = []
        for claim, outcome, answer in answers:
            stored = None if answer == TRUE else answer
            if claim.identity is None:
                blocks.setdefault((claim.epoch, claim.seq >> _BLOCK), []).append((claim.seq, outcome, stored))
            else:
                key = self._key(claim.identity)
                self._granted.discard(key)
                if outcome != DONE or stored is not None:
                    changed.append((outcome, stored, key, claim.digest))
        if changed:
            self._update(sorted(changed, key=lambda row: row[2]))
        for (epoch, block), rows in sorted(blocks.items()):
            self._insert_batch(epoch, block, msgspec.msgpack.encode(rows))

    def _update(self, changed: list[tuple[int, bytes | None, bytes, bytes]]) -> None:
        rows = [(outcome, answer, self._scope, key) for outcome, answer, key, _digest in changed]
        own(self._connection, "UPDATE holdfast_inbox SET outcome = ?, answer = ? WHERE scope = ? AND id = ?", rows)

    def _insert_batch(self, epoch: int, block: int, data: bytes) -> None:
        sql = "INSERT INTO holdfast_batch (scope, epoch, block, data, seen_at) VALUES (?, ?, ?, ?, ?)"
        own(self._connection, sql, (self._scope, f"{epoch:x}", block, data, time.time()))


@dataclass(frozen=True, slots=True)
class Old:
    """Keys of rows that are old."""

    inbox: list[bytes]
    batch: list[int]
    before: float  # seconds since the epoch


class Cleaning:
    """Forgetting of what is old: a walk along the primary keys, a chunk at a time, since an index by time would halve the inserts."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._at = b""
        self._batch_at = 0

    def look(self, connection: Connection, older_than: float, most: int) -> Old:
        """Look at the next `most` rows of either table; writes nothing. Ids of batches grow with time, so the old ones come first."""
        before = time.time() - older_than
        sql = "SELECT id, seen_at FROM holdfast_inbox WHERE scope = ? AND id > ? ORDER BY id LIMIT ?"
        rows = own(connection, sql, (self._scope, self._at, most)).all()
        self._at = bytes(rows[-1][0]) if len(rows) == most else b""
        sql = "SELECT id, scope, seen_at FROM holdfast_batch WHERE id > ? ORDER BY id LIMIT ?"
        batches = own(connection, sql, (self._batch_at, most)).all()
        self._batch_at = batches[-1][0] if len(batches) == most and batches[-1][2] < before else 0
        mine = [row[0] for row in batches if row[1] == self._scope and row[2] < before]
        return Old([bytes(row[0]) for row in rows if row[1] < before], mine, before)

    def forget(self, connection: Connection, old: Old) -> int:
        """Delete by key, which waits for nobody who claims another identity; returns how many went."""
        gone = 0
        for table, keys in (("holdfast_inbox", old.inbox), ("holdfast_batch", old.batch)):
            for part in _parts(list(keys)):
                sql = f"DELETE FROM {table} WHERE scope = ? AND id IN ({', '.join('?' * len(part))}) AND seen_at < ?"
                gone += own(connection, sql, (self._scope, *part, old.before)).rowcount
        return gone


def _first(claim: Claim, owner: Claim) -> Decision:
    """The first of an identity in a list runs; a second one asks again when the first one's answer is known."""
    if owner is claim:
        return _RUN
    return Decision(Verdict.BUSY if owner.digest == claim.digest else Verdict.CLASH)


def _parts(keys: list[Any]) -> Iterable[list[Any]]:
    return (keys[at : at + ROWS_A_STATEMENT] for at in range(0, len(keys), ROWS_A_STATEMENT))
