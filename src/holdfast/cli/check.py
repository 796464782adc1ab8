"""`check`: everything that can be wrong, found without starting anything."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from holdfast.cli import output
from holdfast.cli.children import clerk, configured
from holdfast.cli.command import Call, Command
from holdfast.cli.following import lock_path
from holdfast.cli.preflight import Ground, examine
from holdfast.errors import HoldfastError, NoRightsError
from holdfast.linux.holder import holder
from holdfast.linux.privileges import Identity, as_user
from holdfast.model.broker import NO_LIMIT
from holdfast.model.configuration import Configuration, JobConfig, require_runnable
from holdfast.model.spec import guarantee
from holdfast.model.urls import SourceAddress, StoreAddress
from holdfast.supervisor.listeners import bind_tcp


@dataclass(frozen=True, slots=True)
class Checked:
    """A daemon that could be started, and what to know before."""

    ground: Ground
    configuration: Configuration
    warnings: list[str] = field(default_factory=list)


def check(call: Call) -> Checked:
    """Validate everything. HoldfastError for what would keep the daemon from starting."""
    ground = examine(call)
    configuration = configured(ground)
    require_runnable(configuration)
    if ground.options.settings:
        clerk("settings", ground, path=ground.options.settings)
    warnings = list(_warnings(configuration))
    jobs = [
        {
            "name": job.name,
            "store": job.options.store,
            "threads": job.options.threads,
            "connections": _connections(configuration, job),
            "broker": job.queue is not None or bool(job.options.outbox) or (job.options.dead_letter or "").startswith("amqp"),
        }
        for job in configuration.jobs.values()
    ]
    if any(job["store"] or job["broker"] for job in jobs):
        warnings += clerk("findings", ground, jobs=jobs)
    _check_places(ground)
    _check_ports(ground, configuration)
    return Checked(ground, configuration, warnings)


def _connections(configuration: Configuration, job: JobConfig) -> int:
    """How many connections all jobs of this store's server open at most: one a thread, one beside them, and as many again for heirs.

    A rollout that is taken back has an heir on every slot, and so has the change to another ingress.
    """
    same = [other for other in configuration.jobs.values() if _place(other.options.store) == _place(job.options.store)]
    return sum(((other.options.threads or 1) + 1) * other.options.processes * 2 for other in same)


def _place(url: str) -> str:
    """The server in a store's URL, without user and database."""
    return url.partition("://")[2].rpartition("/")[0].rpartition("@")[2]


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Say what was found."""
    checked = check(call)
    if arguments.json:
        output.say_json(
            {"ok": True, "warnings": checked.warnings, "jobs": {name: _guarantee(checked, name) for name in checked.configuration.jobs}}
        )
        return 0
    for warning in checked.warnings:
        output.say(f"{output.paint('warning', 'yellow', sys.stdout)}: {warning}")
    for name in checked.configuration.jobs:
        output.say(f"{name}: {_guarantee(checked, name)}")
    output.say(f"{checked.ground.options.name}: the configuration is fine")
    return 0


def _guarantee(checked: Checked, job: str) -> str:
    one = checked.configuration.jobs[job]
    return guarantee(one.options, one.declaration.identity)


def _warnings(configuration: Configuration) -> Iterator[str]:
    if not configuration.jobs:
        yield "no job runs: [jobs] names none"
    for job in configuration.jobs.values():
        if job.queue is not None and job.store is not None and guarantee(job.options, job.declaration.identity) == "at-least-once":
            yield (
                f"{job.name}: messages that the broker delivers again are known again by their message_id only where they have one; "
                "where all have it write identity=message_id into the source's URL, or give the job identity()"
            )
        if job.queue is not None and job.queue.declare == "passive" and job.queue.queue_type == "quorum":
            yield (
                f"{job.name}: declare=passive: nobody here sees the queue's arguments. With x-delivery-limit (20 by default since RabbitMQ "
                f"4.0) the broker drops messages whose consumers died so often; set it to {NO_LIMIT}, and a dead-letter exchange"
            )
        if guarantee(job.options, job.declaration.identity) == "at-most-once":
            yield f"{job.name}: what the ingress holds when the daemon stops is lost, since its clients cannot ask again"
        if _in_memory(job.store):
            yield f"{job.name}: sqlite:// is in memory; all is lost when its worker ends, and each worker has its own"
        if job.store is not None and not job.store.server and job.options.processes > 1:
            yield f"{job.name}: processes = {job.options.processes}: SQLite has one writer, so more processes than one gain nothing"


def _in_memory(store: StoreAddress | None) -> bool:
    return store is not None and not store.server and not store.path


def _check_places(ground: Ground) -> None:
    """NoRightsError for a folder that the daemon could not make or write. Its own are given to the service user when they are made."""
    options = ground.options
    for directory in dict.fromkeys((options.run_dir, options.state_dir)):
        is_used = os.path.isdir(directory) and bool(os.listdir(directory))
        _require_writable(directory, ground.identity if is_used else None, "set run_dir and state_dir in [daemon]")
    folder = os.path.dirname(options.log)
    if options.log != "-" and not f"{folder}/".startswith(f"{options.state_dir}/"):
        _require_writable(folder, ground.identity, "correct 'log' in [daemon]")


def _require_writable(directory: str, identity: Identity | None, remedy: str) -> None:
    there = directory
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    with as_user(identity):
        writable = os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK, effective_ids=True)
    if not writable:
        user = identity.user if identity is not None else "this user"
        raise NoRightsError(f"{directory} cannot be {'written' if there == directory else 'made'} by {user}", remedy=remedy)


def _check_ports(ground: Ground, configuration: Configuration) -> None:
    """UnavailableError or NoRightsError for an address that is not to be had. A daemon that runs has its own."""
    with holder(lock_path(ground.options)) as found:
        if found is not None:
            return
    for job in configuration.jobs.values():
        if job.source is not None and _listens(job.source):
            try:
                bind_tcp(job.source.host, job.source.port).close()
            except HoldfastError as error:
                error.where = error.where or f"{job.name}.source"
                raise


def _listens(source: SourceAddress) -> bool:
    return not source.connect and source.port > 0


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


COMMAND = Command(
    name="check",
    summary="Validate everything without starting anything.",
    details="Read the configuration, import the app (in a process of its own, as the user it will run as), look at stores and ports.\n\n"
    "exit status: 0 fine, 2 not, 4 no rights",
    run=run,
    configure=_configure,
    statuses={1: 2, 5: 2},
)
