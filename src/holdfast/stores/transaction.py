"""One batch on a SQLAlchemy connection: what is the same for every database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import sqlalchemy

from holdfast.errors import HoldfastError
from holdfast.stores import letters
from holdfast.stores.base import Claim, DeadLetter, Decision
from holdfast.stores.database import Database
from holdfast.stores.direct import Direct
from holdfast.stores.inbox import Inbox
from holdfast.stores.outbox import COPIES, Outbox
from holdfast.telemetry import events

_LONGEST_HEADER = 8000


class CoreTransaction:
    """See `holdfast.stores.base.Transaction`; `proof`, `commit` and `rollback` are each database's own."""

    def __init__(self, core: sqlalchemy.Connection, box: Inbox, outbox: Outbox) -> None:
        self._core = core
        self._inbox = box
        self._transaction = core.begin()
        box.begin()
        self._outbox = outbox
        self.db = Database(core, outbox, self._direct(core))
        self.ending = False
        self.handling = False  # whether what is executed comes from a handler

    def _direct(self, core: sqlalchemy.Connection) -> Direct | None:
        """The short way to the driver, where there is one."""
        return None

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

    def send_letter(self, letter: DeadLetter, url: str) -> None:
        self.handling = False
        headers = {**{key: str(value) for key, value in letter.headers.items() if key not in COPIES}, **_about(letter)}
        key = "" if self._outbox.targets.target(url).queue else letter.job
        try:
            self._outbox.put(self._core, url, letter.body, key, headers, None)
        except HoldfastError as error:
            events.log("letter.kept", f"it is too much for a message, and lies in the store: {error.message}", level="warning")
            self.bury(letter)
        else:
            self.db.published = True

    def wake_outbox(self) -> None:
        """After the commit: what was published can leave."""
        if self.db.published:
            self._outbox.wake()

    def begin_message(self) -> None:
        self.db.begin_message()
        self.handling = True

    def touched(self) -> bool:
        return self.db.touched


def _about(letter: DeadLetter) -> dict[str, str]:
    """What a dead letter's headers say of its end."""
    facts = {"job": letter.job, "reason": letter.reason, "trace": letter.trace, "source": letter.source, "attempts": letter.attempts}
    return {f"x-holdfast-{name}": str(value)[:_LONGEST_HEADER] for name, value in {**facts, "message-id": letter.message_id}.items()}
