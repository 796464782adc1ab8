"""What is handed from process to process, as plain values that JSON can carry: declarations and worker specifications."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from holdfast.model.broker import SCHEMES, parse_queue
from holdfast.model.options import JobOptions

Work = Literal["handle", "handle_batch", "run"]
Role = Literal["worker", "quarantine", "prepare", "twin"]
Guarantee = Literal["exactly-once", "at-least-once", "at-most-once"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the import of the application says about one Job class."""

    cls: str
    work: Work
    options: Mapping[str, Any]  # class attributes named like options, as written
    identity: bool  # overrides identity()
    key: bool  # overrides key()
    creates: bool  # has a schema or prepare()
    file: str = ""
    line: int = 0
    needs_db: bool = False  # its work cannot be called without `db`

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Declaration:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a child of the zygote needs to become what it is to be. No option is None."""

    id: str  # unique within the supervisor's life, "Fee/0.17": job, slot, spawn number
    role: Role
    job: str  # name of the job: the [jobs.NAME] table, or the class
    cls: str
    generation: int
    options: JobOptions
    state_dir: str
    stop_timeout: float
    settings_path: str = ""  # tells the format by its ending
    settings_text: str | None = None
    epoch: int = 0  # of the ingress that the data channel belongs to
    blamed: tuple[tuple[int, int, str], ...] = ()  # suspects of a broker's queue, as `model.blame` has them
    most_messages: int = 0  # after so many the worker says that it is due to be replaced; 0: never

    @property
    def first(self) -> bool:
        """Whether it has the first slot of its job, which there is always: what one worker of many is to do is done there."""
        return self.id.startswith(f"{self.job}/0.")

    def to_json(self) -> dict[str, Any]:
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["options"] = asdict(self.options)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WorkerSpec:
        options = dict(data["options"])
        options["backoff"] = tuple(options["backoff"])
        blamed = tuple(tuple(one) for one in data.get("blamed", ()))
        return cls(**{**data, "options": JobOptions(**options), "blamed": blamed})


def guarantee(options: JobOptions, identity: bool = False) -> Guarantee:
    """Which of the three guarantees holds for this job; nothing claims more. `identity`: the job has an identity() of its own.

    A broker delivers again without saying what: only a message that has an identity is known again. Brokerless answering sources
    always have delivery ids, so a store with an inbox gives exactly-once for the life of the ingress, and identity() extends that
    to clients that send again.
    """
    scheme = options.source.partition(":")[0]
    if scheme in {"zmq+pull", "zmq+sub", "udp", "fifo"}:
        return "at-most-once"
    if scheme in SCHEMES and not identity and not parse_queue(options.source).identity:
        return "at-least-once"
    if options.store and options.inbox and options.source:
        return "exactly-once"
    return "at-least-once"
