"""What a worker asks of a store. SQLite, MariaDB and PostgreSQL are one file each behind these protocols.

One thread owns one `Connection`, with one `Transaction` at a time. The inbox and the dead letters live in the store itself, so
that they are part of the same transaction as the effects.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from holdfast.stores.outbox import Outbox

_UNENDED = "another try was begun and never ended (its worker died); before that: "


class Fault(enum.Enum):
    """What an exception says about the transaction it came from."""

    MESSAGE = "message"  # the message, or the code that handled it, is at fault
    TRANSIENT = "transient"  # deadlock, lock wait, serialization: replay, count nobody's attempt
    LOST = "lost"  # the connection is gone, for which a message may be the reason: replay, but not for ever
    AWAY = "away"  # the store says that it cannot: full, read-only, no connections left. Pause the source; no message is to blame


class Claim(NamedTuple):
    """A message that asks the inbox whether it may run. `identity` is None where only the delivery id is at stake."""

    epoch: int
    seq: int
    identity: bytes | None
    digest: bytes  # of the body
    redelivered: bool


class Verdict(enum.Enum):
    RUN = "run"  # nobody has done it: it is ours in this transaction
    DONE = "done"  # done before: settle with the stored answer, do not run
    CLASH = "clash"  # the same identity was seen with another body: never run
    BUSY = "busy"  # another transaction holds this identity just now: set aside


@dataclass(frozen=True, slots=True)
class Decision:
    """The inbox's word on one claim; for DONE and for a dead letter the stored outcome (DONE or FAILED of model.delivery) and answer."""

    verdict: Verdict
    outcome: int = 0
    answer: bytes = b"TRUE"


@dataclass(slots=True)
class DeadLetter:
    """A message that was given up, with everything needed to see why and to try it again."""

    job: str
    body: bytes
    reason: str
    trace: str = ""
    identity: bytes | None = None
    message_id: str = ""
    headers: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    attempts: int = 1
    died_at: float = 0.0  # seconds since the epoch
    id: str = ""  # given by the store when it is buried
    state: str = "dead"  # "dead", or "retry" once an operator has asked for another try
    size: int = 0  # of the body; lists leave the body out

    def begun(self) -> DeadLetter:
        """The same letter as it stays behind when its attempt never ends."""
        reason = self.reason if self.reason.startswith(_UNENDED) else _UNENDED + self.reason
        return replace(self, state="dead", reason=reason, attempts=self.attempts + 1)


class Letters(Protocol):
    """Dead letters outside of a worker's transaction: what `holdfast failed` and the retry of a letter need."""

    def all(self, job: str | None = None) -> list[DeadLetter]: ...
    def show(self, letter_id: str) -> DeadLetter | None: ...
    def mark(self, letter_ids: Sequence[str] | None, job: str | None = None) -> int:
        """Ask for another try of these letters (None: all of the job); returns how many were newly marked."""
        ...

    def drop(self, letter_ids: Sequence[str] | None, job: str | None = None) -> int: ...
    def marked(self, job: str, most: int) -> list[DeadLetter]:
        """Letters, with body, that wait for another try."""
        ...

    def attempt(self, letter: DeadLetter) -> bool:
        """A marked letter is about to be tried: from now on it is dead again, with one attempt more, whatever becomes of this process.

        So a letter that kills its worker is not tried by the next one. False when somebody else has begun it, or it is gone.
        """
        ...

    def put_back(self, letter: DeadLetter) -> None:
        """The attempt came to nothing, for which the letter is not to blame: it is marked as before."""
        ...


class Transaction(Protocol):
    """One batch. Begun by `Connection.begin`; ended by `commit` or `rollback`."""

    db: Any  # the user's `db`: holdfast.stores.database.Database

    @property
    def lost(self) -> BaseException | None:
        """The error of the store that has ended this transaction, even if a handler has caught it."""
        ...

    def claim(self, claims: Sequence[Claim]) -> list[Decision]:
        """Ask the inbox; its first statement. Decisions in the order of the claims. At most one RUN per identity, also within the list."""
        ...

    def release(self, claims: Sequence[Claim]) -> None:
        """Take back claims that were granted (RUN) in this transaction and were not run."""
        ...

    def record(self, answers: Sequence[tuple[Claim, int, bytes]]) -> None:
        """Store outcome and answer of the messages run in this transaction, before the commit."""
        ...

    def savepoint(self) -> AbstractContextManager[None]:
        """What happens inside is undone alone when it raises."""
        ...

    def bury(self, letter: DeadLetter) -> None:
        """Store a dead letter as part of this transaction."""
        ...

    def send_letter(self, letter: DeadLetter, url: str) -> None:
        """Publish a dead letter as part of this transaction; one that no message can carry is buried."""
        ...

    def unbury(self, letter: DeadLetter) -> bool:
        """Take a letter out, in its attempt, as part of this transaction; False when it is not there any more, or somebody else's."""
        ...

    def begin_message(self) -> None:
        """A handler is about to run: from here on the proof watches what it does."""
        ...

    def touched(self) -> bool:
        """Whether a statement was executed through this transaction since `begin_message`."""
        ...

    def proof(self) -> str:
        """Empty when the transaction that `begin` began is still whole; otherwise what broke it. Cheap: runs after each handler."""
        ...

    def commit(self) -> None: ...
    def rollback(self) -> None: ...


class Connection(Protocol):
    """One thread's connection."""

    def begin(self) -> Transaction:
        """Begin the one transaction; checks first whether the connection is alive, opens it again where not."""
        ...

    def probe(self) -> None:
        """Raise what the store says when a fresh connection wants to write."""
        ...

    def close(self) -> None: ...


class Hold(Protocol):
    """A name that one process alone has, among all that use the store. It ends with the process, or its session at the server."""

    def held(self) -> bool:
        """Whether it is still ours; keeps its session from being taken for idle. Cheap: the server is asked now and then only."""
        ...

    def release(self) -> None: ...


class Store(Protocol):
    """One database, as seen by one worker process."""

    scheme: str
    outbox: Outbox
    one_writer: bool  # an idle thread takes all that waits, instead of its share

    def connect(self) -> Connection: ...
    def letters(self) -> Letters: ...
    def work(self, what: Callable[[Any], Any]) -> Any:
        """Run something on a SQLAlchemy connection, in a transaction of its own; what it gives."""
        ...

    def hold(self, name: str) -> Hold | None:
        """Take a name; None when another process has it just now."""
        ...

    def install(self, schema: str, prepare: Any) -> None:
        """Make our tables, then the job's own: once per generation, before any worker. Raises AppError naming the SQL that failed."""
        ...

    def fault(self, error: BaseException) -> Fault: ...
    def findings(self, connections: int = 0) -> list[str]:
        """What `check` warns about; `connections` is how many the daemon's processes can have open together."""
        ...

    def clean(self, older_than: float, most: int) -> int:
        """Look at so many rows of the inbox, going on where the last call ended, and forget those older than this many seconds.

        Returns how many went. Bounded work: nobody waits long for it, however large the inbox is.
        """
        ...

    def close(self) -> None: ...
