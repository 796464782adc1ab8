"""Every option of the daemon and of a job: one table, from which the parser, `config` and the reference are made.

A field is an option. Its `kind` says how a value is written and what unit the resolved value has: `duration` (written "50ms",
resolved to seconds), `size` (written "64MiB", resolved to bytes), `int`, `bool`, `text`, `path`, `url` (text that may hold a
secret), `command` (list of texts). `None` as a default means: derived from other options, as `doc` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def option(default: Any, kind: str, doc: str, *, secret: bool = False, choices: tuple[str, ...] = (), least: float | None = None) -> Any:
    """Declare an option: its resolved default, how it is written, what it is for, what values it takes."""
    return field(default=default, metadata={"kind": kind, "doc": doc, "secret": secret, "choices": choices, "least": least})


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """`[daemon]`: what concerns the daemon as a whole, resolved. Paths are absolute."""

    name: str = option("", "text", "Name of the daemon; default: the app file's stem.")
    app: str = option("", "text", "Python file, or dotted module, that defines Job classes.")
    user: str = option("", "text", "User to run as when started as root; required then ('root' insists).")
    group: str = option("", "text", "Group to run as; default: the user's.")
    umask: str = option("077", "text", "File mode creation mask, octal.")
    run_dir: str = option("", "path", "PID file, lock and control socket; default: /run/NAME as root, else ~/.local/state/holdfast/NAME.")
    state_dir: str = option("", "path", "Spool, dead letters, log; default: /var/lib/NAME as root, else ~/.local/state/holdfast/NAME.")
    log: str = option(
        "", "path", "Log file, {date} is replaced; '-' is standard error; default: '-' in the foreground, else state_dir/NAME.log."
    )
    log_format: str = option("text", "text", "Form of a log line.", choices=("text", "json"))
    log_level: str = option("info", "text", "Least level that is logged.", choices=("debug", "info", "warning", "error"))
    settings: str = option("", "path", "The app's own settings file: INI, TOML, JSON or YAML.")
    start_timeout: float = option(30.0, "duration", "How long `start` waits for every job to be ready.", least=0.1)
    stop_timeout: float = option(30.0, "duration", "How long `stop` lets begun work finish.", least=0.0)
    guard_patience: float = option(
        60.0, "duration", "How long a supervisor under `guard` may answer nothing before another takes its place; 0s: for ever.", least=0.0
    )
    probation: float = option(3.0, "duration", "How long new workers of a reload prove themselves, counted from the last slot.", least=0.0)


@dataclass(frozen=True, slots=True)
class JobOptions:
    """`[jobs.NAME]` over the class's own attributes, resolved. Durations are in seconds, sizes in bytes."""

    source: str = option("", "url", "Where messages come from.", secret=True)
    store: str = option("", "url", "Database whose transactions hold the effects.", secret=True)
    processes: int = option(1, "int", "Worker processes.", least=0)
    threads: int | None = option(None, "int", "Handler threads in each process; default: 8 with a database server, else 1.", least=1)
    batch: int = option(500, "int", "Messages per transaction at most.", least=1)
    batch_age: float = option(0.05, "duration", "A transaction older than this commits before the next message is begun.", least=0.0)
    linger: float = option(0.0, "duration", "How long an idle thread waits for a fuller batch.", least=0.0)
    timeout: float = option(30.0, "duration", "Per message; beyond it stacks are dumped and the worker is replaced.", least=0.01)
    retries: int | None = option(None, "int", "Tries after the first; default: 5, but 0 for sources that answer.", least=0)
    backoff: tuple[float, float] = option((1.0, 300.0), "range", "First and longest delay between tries, exponential with jitter.")
    answer_within: float = option(
        10.0, "duration", "Sources that answer: a failing message is a dead letter, and FALSE, after this.", least=0.0
    )
    inbox: bool = option(True, "bool", "Remember identities and delivery ids in the store, so that a message has one effect.")
    inbox_keep: float = option(86400.0, "duration", "How long an identity is remembered, by the wall clock.", least=1.0)
    dead_letter: str | None = option(
        None, "url", "'store', 'state_dir' or an amqp:// URL; default: the store, where there is one.", secret=True
    )
    outbox: str = option("", "url", "Broker that db.publish sends to: amqp://USER:PASSWORD@HOST/VHOST.", secret=True)
    in_flight: int = option(10_000, "int", "Messages held by the ingress for this job.", least=1)
    in_flight_bytes: int = option(64 << 20, "size", "Bytes held by the ingress for this job.", least=1)
    in_flight_per_client: int = option(
        1_000, "int", "Answers parked for a client that reads slowly, before they are dropped and counted.", least=1
    )
    max_message: int = option(1 << 20, "size", "Largest message taken in.", least=1)
    max_clients: int = option(1_000, "int", "Connections the ingress accepts for this job.", least=1)
    max_messages: int = option(0, "int", "Recycle a worker after so many messages; 0: never.", least=0)
    max_age: float = option(0.0, "duration", "Recycle a worker after so long; 0: never.", least=0.0)
    max_rss: int = option(0, "size", "Recycle a worker beyond so much memory; 0: never.", least=0)
    heartbeat: float = option(
        12.0, "duration", "How often a worker shows that its loop turns; three missed ones and it is replaced.", least=0.1
    )
    interval: float = option(5.0, "duration", "Pause before `run` is called again after it returned or raised.", least=0.0)
    overlap: bool | None = option(None, "bool", "Heir active before its incumbent leaves; default: false for run() and ordered jobs.")
    ordered: bool = option(False, "bool", "Keep the order of messages of one key(); behind RabbitMQ only, with one thread.")
    spawn: str = option(
        "fork",
        "text",
        "'fork' from the zygote, or 'exec' a fresh interpreter (apps that start threads at import).",
        choices=("fork", "exec"),
    )
    crash_limit: int = option(3, "int", "A message that was alone in so many dying workers is a dead letter.", least=1)


#: Names that a Job class may set as attributes, and a `[jobs.NAME]` table as keys.
JOB_OPTIONS = tuple(f.name for f in fields(JobOptions))
DAEMON_OPTIONS = tuple(f.name for f in fields(DaemonOptions))
