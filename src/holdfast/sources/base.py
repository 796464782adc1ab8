"""What a worker's I/O loop asks of a source: where messages come from and where their outcomes go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from holdfast.model.blame import Suspect
from holdfast.model.delivery import Delivery


class Settlement(NamedTuple):
    """The outcome of one delivery, after the commit. `outcome` is DONE or FAILED of holdfast.model.delivery."""

    seq: int
    outcome: int
    answer: bytes


class Source(Protocol):
    """One source in one worker process.

    `receive`, `flush`, `due` and `finish` are called by the I/O loop's thread only; `settle`, `retry` and `give_back` by any thread.
    """

    epoch: int
    name: str  # shown as message.source
    answers: bool  # somebody waits for the answer

    def fileno(self) -> int: ...
    def wants_write(self) -> bool: ...
    def receive(self) -> Sequence[Delivery]:
        """What came; empty when nothing waits; EOFError when the source has ended."""
        ...

    def flush(self) -> None:
        """Write what could not be written at once."""
        ...

    def due(self) -> float | None:
        """When `receive` wants to be called though nothing is readable, in monotonic seconds."""
        ...

    def settle(self, settlements: Sequence[Settlement]) -> None: ...
    def retry(self, seq: int, delay: float, reason: str) -> None: ...
    def give_back(self, seqs: Sequence[int]) -> None: ...
    def finish(self, until: float) -> None:
        """Let every outcome out, or wait until this monotonic time; nothing is received any more."""
        ...

    def close(self) -> None: ...


class GrantingSource(Source, Protocol):
    """One that sends no more than it was granted."""

    def grant(self, messages: int) -> None:
        """Allow so many more messages to be sent to us."""
        ...


class OpenSource(Source, Protocol):
    """One that bounds by itself what it holds."""

    def open(self) -> None:
        """Take messages, or take them again."""
        ...

    def shut(self) -> None:
        """Take no more; some may still be on their way."""
        ...

    def blame(self, suspects: Sequence[Suspect]) -> None:
        """These may kill a worker. Who has an ingress before it is not asked: suspects go to quarantine there."""
        ...
