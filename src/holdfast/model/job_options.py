"""One job's options: from its layers to values, defaults that follow from others, and what does not go together."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from holdfast.errors import ConfigurationError
from holdfast.model import values
from holdfast.model.broker import SCHEMES, BrokerAddress, QueueAddress, parse_broker, parse_queue
from holdfast.model.inputs import Inputs
from holdfast.model.layers import JobTable, place
from holdfast.model.options import JobOptions
from holdfast.model.problems import Problems
from holdfast.model.references import ReadSecret, has_reference
from holdfast.model.spec import Declaration
from holdfast.model.targets import Targets
from holdfast.model.urls import SourceAddress, StoreAddress, parse_source, parse_store
from holdfast.model.values import Written

THREADS_WITH_A_SERVER = 8
TRIES_AFTER_THE_FIRST = 5
_FIRST_FREE_PORT = 1024


@dataclass(frozen=True, slots=True)
class JobConfig:
    """A job as it is to run. No option is None."""

    name: str
    cls: str
    declaration: Declaration
    options: JobOptions
    source: SourceAddress | None  # what an ingress serves
    queue: QueueAddress | None  # what its workers consume; neither for run()
    store: StoreAddress | None
    shown: Mapping[str, str]  # every option as it would be written; secrets masked


@dataclass(slots=True)
class JobBeingMade:
    """What the checks look at."""

    inputs: Inputs
    table: JobTable
    declaration: Declaration
    written: Mapping[str, Written]
    problems: Problems

    @property
    def section(self) -> str:
        return f"jobs.{self.table.name}"

    def where(self, key: str) -> str:
        """The place of an option; the job's own where nobody wrote it."""
        if key in self.written:
            return place(self.written[key], self.section, key)
        line = f":{self.declaration.line}" if self.declaration.line else ""
        return self.table.where or f"{posixpath.basename(self.declaration.file) or self.section}{line}"

    def wrong(self, key: str, message: str, remedy: str) -> None:
        """Note a problem with an option."""
        self.problems.add(message, where=self.where(key), remedy=remedy)


def make_job(job: JobBeingMade, read_secret: ReadSecret) -> JobConfig | None:
    """The job; None when something is wrong with it, which is among the problems then."""
    found = _values(job, read_secret)
    consumes = found.get("source", "").partition(":")[0].lower() in SCHEMES
    address = _address(job, found.get("source", ""), "source", parse_queue if consumes else parse_source)
    source, queue = (None, address) if consumes else (address, None)
    store = _address(job, found.get("store", ""), "store", parse_store)
    _check_source(job, source)
    if len(found) < len(fields(JobOptions)):
        return None
    _check_work(job, found["source"], found["store"])
    _check_bounds(job, found)
    _check_order(job, found, queue)
    _check_dead_letter(job, found)
    _check_outbox(job, found)
    _derive(found, job.declaration, source, store)
    options = JobOptions(**found)
    return JobConfig(job.table.name, job.table.cls, job.declaration, options, source, queue, store, _shown(job, options))


def _values(job: JobBeingMade, read_secret: ReadSecret) -> dict[str, Any]:
    """Option -> value; those that cannot be read are missing."""
    result: dict[str, Any] = {}
    for option in fields(JobOptions):
        result[option.name] = option.default
        if option.name in job.written:
            del result[option.name]
            with job.problems.caught(job.where(option.name)):
                result[option.name] = values.resolve(option, job.written[option.name], job.inputs.environ, read_secret)
    return result


def _address(job: JobBeingMade, url: str, key: str, parse: Any) -> Any:
    if not url:
        return None
    written = job.written[key]
    try:
        return parse(url)
    except ConfigurationError as error:
        secret = has_reference(str(written.value))
        message = f"what {values.show_raw(written.value)} stands for is not a {key} that can be used" if secret else error.message
        job.wrong(key, message, "" if secret else error.remedy)
    return None


def _check_work(job: JobBeingMade, source: str, store: str) -> None:
    cls = job.table.cls
    if job.declaration.needs_db and not store:
        job.wrong("store", f"{cls}.{job.declaration.work} wants db, and there is no store", 'set store = "sqlite:///…", or leave db out')
    if job.declaration.work == "run" and source:
        job.wrong("source", f"{cls} runs a loop of its own and takes no messages", "leave out source, or give it handle() instead of run()")
    if job.declaration.work != "run" and not source:
        job.wrong(
            "source", f"{job.table.name} has no source", 'set source = "zmq+rep://127.0.0.1:5555", say, in the class or its [jobs] table'
        )


def _check_source(job: JobBeingMade, source: SourceAddress | None) -> None:
    """Rights come from root alone: a class attribute is the application's word."""
    if source is None or source.connect or not 0 < source.port < _FIRST_FREE_PORT:
        return
    if job.inputs.euid == 0 and job.written["source"].origin.startswith("class "):
        toml = f'write source = "…:{source.port}" under [{job.section}] in holdfast.toml'
        job.wrong(
            "source",
            f"the class asks for port {source.port}, which takes root's rights",
            f"{toml}, which is root's word, or take a port from 1024 on",
        )


def _check_bounds(job: JobBeingMade, found: Mapping[str, Any]) -> None:
    if found["max_message"] > found["in_flight_bytes"]:
        job.wrong(
            "max_message", "max_message is more than in_flight_bytes, so the largest messages would never fit", "raise in_flight_bytes"
        )


def _check_order(job: JobBeingMade, found: Mapping[str, Any], queue: QueueAddress | None) -> None:
    """One key's messages must come to one process, and there to one thread."""
    if not found["ordered"]:
        return
    if queue is None:
        if not found["source"] or found["source"].partition(":")[0].lower() not in SCHEMES:
            job.wrong("ordered", "only jobs behind RabbitMQ keep the order of a key", "leave it out, or take an amqp:// source")
        return
    hashed = queue.exchange_type == "x-consistent-hash" and found["processes"] == 1
    if not queue.single_active and not hashed:
        job.wrong(
            "ordered",
            "an ordered job's queue must have one consumer at a time",
            "write single_active_consumer=true into the source, or take exchange_type=x-consistent-hash and processes = 1",
        )
    if (found["threads"] or 1) > 1:
        job.wrong("ordered", "an ordered job has one thread", "leave threads out, or write threads = 1")


def known_brokers(source: str, outbox: str) -> list[BrokerAddress]:
    """Those that a job's configuration says who we are at."""
    queues = [parse_queue(source).broker] if source.partition(":")[0].lower() in SCHEMES else []
    return [*queues, *([parse_broker(outbox)] if outbox else [])]


def _check_outbox(job: JobBeingMade, found: Mapping[str, Any]) -> None:
    if not found["outbox"]:
        return
    with job.problems.caught(job.where("outbox")):
        parse_broker(found["outbox"])
    if not found["store"]:
        job.wrong("outbox", "an outbox lies in the store, and there is none", "set a store, or leave outbox out")


def _check_dead_letter(job: JobBeingMade, found: Mapping[str, Any]) -> None:
    wanted, store = found["dead_letter"], found["store"]
    if wanted in (None, "state_dir") or (wanted == "store" and store):
        return
    if wanted == "store":
        job.wrong("dead_letter", 'dead_letter = "store", and there is no store', 'set a store, or dead_letter = "state_dir"')
    elif str(wanted).partition(":")[0].lower() in SCHEMES:
        if not store:
            job.wrong("dead_letter", "dead letters go to a broker through the outbox of the store, and there is no store", "set a store")
        with job.problems.caught(job.where("dead_letter")):
            Targets(known_brokers(found["source"], found["outbox"])).target(str(wanted))
    else:
        job.wrong("dead_letter", "dead_letter is none of those that there are", 'write "store", "state_dir" or an amqp:// URL')


def _derive(found: dict[str, Any], declaration: Declaration, source: SourceAddress | None, store: StoreAddress | None) -> None:
    """Defaults that depend on other options."""
    if found["threads"] is None:
        found["threads"] = THREADS_WITH_A_SERVER if store is not None and store.server and not found["ordered"] else 1
    if found["retries"] is None:
        found["retries"] = 0 if source is not None and source.answers else TRIES_AFTER_THE_FIRST
    if found["dead_letter"] is None:
        found["dead_letter"] = "store" if found["store"] else "state_dir"
    if found["overlap"] is None:
        found["overlap"] = declaration.work != "run" and not found["ordered"]


def _shown(job: JobBeingMade, options: JobOptions) -> dict[str, str]:
    return {option.name: shown(option, getattr(options, option.name), job.written.get(option.name)) for option in fields(JobOptions)}


def shown(option: Any, value: Any, written: Written | None) -> str:
    """A value for people: the reference where it came from one, never what that stood for; passwords masked."""
    if written is not None and isinstance(written.value, str) and has_reference(written.value):
        return values.show_raw(written.value)
    return values.show(option, value)
