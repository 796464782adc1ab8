"""One batch on a SQLAlchemy connection: what is the same for every database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import sqlalchemy

from holdfast.stores import letters
from holdfast.stores.base import Claim, DeadLetter, Decision
from holdfast.stores.database import Database
from holdfast.stores.inbox import Inbox


class CoreTransaction:
    """See `holdfast.stores.base.Transaction`; `proof`, `commit` and `rollback` are each database's own."""

    def __init__(self, core: sqlalchemy.Connection, box: Inbox) -> None:
        self._core = core
        self._inbox = box
        self._transaction = core.begin()
        box.begin()
        self.db = Database(core)
        self.ending = False
        self.handling = False  # whether what is executed comes from a handler

    @property
    def lost(self) -> BaseException | None:
        return self.db.lost

    def claim(self, claims: Sequence[Claim]) -> list[Decision]:
        self.handling = False
        return self._inbox.claim(claims)

    def release(self, claims: Sequence[Claim]) -> None:
        self.handling = False
        self._inbox.release(claims)

    def record(self, answers: Sequence[tuple[Claim, int, bytes]]) -> None:
        self.handling = False
        self._inbox.record(answers)

    def savepoint(self) -> AbstractContextManager[None]:
        return self.db.savepoint()

    def bury(self, letter: DeadLetter) -> None:
        self.handling = False
        letters.bury(self._core, letter)

    def unbury(self, letter: DeadLetter) -> bool:
        self.handling = False
        return letters.unbury(self._core, letter)

    def begin_message(self) -> None:
        self.db.begin_message()
        self.handling = True

    def touched(self) -> bool:
        return self.db.touched
