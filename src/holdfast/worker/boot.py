"""From a specification to a worker that is ready: a list of named steps, and what is said when one fails."""

from __future__ import annotations

import dataclasses
import mmap
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from holdfast.errors import AppError, UnavailableError
from holdfast.linux.channel import Channel
from holdfast.model import board as boards
from holdfast.model import broker
from holdfast.model.blame import Suspect
from holdfast.model.board import BoardWriter, ThreadBoard
from holdfast.model.job import Job
from holdfast.model.job_options import known_brokers
from holdfast.model.options import JobOptions
from holdfast.model.spec import Work, WorkerSpec
from holdfast.model.targets import Targets
from holdfast.sources.base import OpenSource
from holdfast.sources.ingress import IngressSource
from holdfast.stores.base import Connection, Store
from holdfast.telemetry import events
from holdfast.worker import logs, settings
from holdfast.worker.credited import Credited
from holdfast.worker.dying import fault_points, pass_by
from holdfast.worker.engine_context import EngineContext
from holdfast.worker.intake import Intake
from holdfast.worker.loop import Loop, LoopParts
from holdfast.worker.offspring import leave
from holdfast.worker.pausing import Pausing
from holdfast.worker.saying import say, say_failed
from holdfast.worker.settings_in_place import SettingsInPlace, SettingsTalk
from holdfast.worker.threads import ContextFactory, Crew, EngineFactory, Surroundings, raise_unavailable
from holdfast.worker.trace import reason_of, trace_of
from holdfast.worker.wakeup import WakeUp

if TYPE_CHECKING:
    from holdfast.worker.relay import Relay

# The interpreter lets a busy thread keep the lock for 5 ms while another waits. Measured with one busy handler thread beside the
# I/O loop, 64 messages in flight: p99 4.3 ms at 5 ms, 2.5 at 1, 1.4 at 0.5. With 8 busy threads the default gave the best throughput.
_SWITCH_SECONDS = 0.0005
_CONNECT_SECONDS = 25.0  # of a broker that is away: less than `start` waits


@dataclass(slots=True)
class Boot:
    """What the steps have made so far. The first fields are what the process was born with."""

    spec: WorkerSpec
    cls: type[Job]
    work: Work
    channel: Channel
    board_fd: int | None
    data_fd: int | None
    wake: WakeUp = field(default_factory=WakeUp)
    activated: threading.Event = field(default_factory=threading.Event)
    draining: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    fault: Callable[[str], None] = pass_by
    store: Store | None = None
    letters: Any = None
    view: memoryview = field(default_factory=lambda: memoryview(b""))
    board: BoardWriter | None = None
    source: OpenSource | None = None
    intake: Intake | None = None
    relay: Relay | None = None
    loop: Loop | None = None
    leave_by_ns: int | None = None  # monotonic, of a life that is not to last


def live(boot: Boot) -> NoReturn:
    """Be this worker (or `prepare` run) to its end; never returns, and never runs what the application registered with atexit."""
    status = 70
    try:
        status = _live(boot)
    except BaseException as error:
        events.log("worker.broken", f"{reason_of(error)}\n{trace_of(error)}", level="error")
    leave(status)


def _live(boot: Boot) -> int:
    events.configure(job=boot.spec.job, worker=boot.spec.id)
    logs.bridge()
    for name, step in PREPARE if boot.spec.role == "prepare" else STEPS:
        try:
            step(boot)
        except BaseException as error:
            status = 5 if isinstance(error, UnavailableError) else 1
            say_failed(boot.channel, error, status, name)
            return status
    if boot.loop is not None:
        return boot.loop.run()
    say(boot.channel, {"say": "prepared"})
    return 0


def _narrow(boot: Boot) -> None:
    """A quarantine worker handles one message at a time, alone."""
    if boot.spec.role == "quarantine":
        boot.spec = dataclasses.replace(boot.spec, options=dataclasses.replace(boot.spec.options, threads=1, batch=1))
    os.environ["HOLDFAST_WORKER"] = boot.spec.id  # what it executes and leaves behind is known by this
    boot.fault = fault_points(os.environ.get("HOLDFAST_FAULT", ""))


def _read_settings(boot: Boot) -> None:
    if boot.spec.settings_text is not None:
        Job.settings = settings.parse(boot.spec.settings_path, boot.spec.settings_text)


def _set_up_process(boot: Boot) -> None:
    boot.cls.setup_process(boot.cls.settings)


def _open_store(boot: Boot) -> None:
    options = boot.spec.options
    if not options.store:
        return
    from holdfast.stores import open_store

    boot.store = open_store(options.store, boot.spec.job, threads=options.threads or 1, timeout=options.timeout)
    brokers = known_brokers(options.source, options.outbox)
    if brokers and boot.spec.role != "prepare":
        from holdfast.worker.relay import Relay

        boot.store.outbox.targets = Targets(brokers)
        boot.relay = Relay(boot.store, boot.spec.job, boot.wake, boot.fault)
        boot.store.outbox.wake = boot.relay.wake


def _end_with_supervisor(boot: Boot) -> None:
    """A run of `prepare` has no loop that sees the end of the channel: a thread of its own does, whatever the run waits for."""

    def wait() -> None:
        poll = select.poll()
        poll.register(boot.channel.fileno(), 0)  # for nothing but the hang-up
        poll.poll()
        leave(1)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def _install(boot: Boot) -> None:
    if boot.store is None:
        return
    try:
        boot.store.install(boot.cls.schema, boot.cls.prepare)
    except Exception as error:
        raise_unavailable(boot.store, error)


def _open_letters(boot: Boot) -> None:
    """Dead letters that do not belong into the store lie in files."""
    options = boot.spec.options
    if boot.work != "run" and (boot.store is None or options.dead_letter == "state_dir"):
        from holdfast.stores.letter_files import LetterFiles

        boot.letters = LetterFiles(boot.spec.state_dir)


def _map_board(boot: Boot) -> None:
    threads, batch = boot.spec.options.threads or 1, boot.spec.options.batch
    size = boards.size(threads, batch)
    boot.view = memoryview(bytearray(size) if boot.board_fd is None else mmap.mmap(boot.board_fd, size))
    if boot.board_fd is not None:
        os.close(boot.board_fd)
    boot.board = BoardWriter(boot.view, threads, batch, os.getpid())


def _open_source(boot: Boot) -> None:
    spec, options = boot.spec, boot.spec.options
    if boot.work == "run":
        return
    boot.intake = intake = Intake(
        options.batch, threads=options.threads or 1, linger=options.linger, one_writer=boot.store is not None and boot.store.one_writer
    )
    if options.source.partition(":")[0] in broker.SCHEMES:
        boot.source = _consumer(spec, options, intake, boot.channel)
        return
    if boot.data_fd is None:
        raise AppError(
            f"{spec.job} has no source to take messages from", remedy='set source = "zmq+rep://…" in the class or its [jobs] table'
        )
    sock = socket.socket(fileno=boot.data_fd)
    source = IngressSource(sock, url=options.source, epoch=spec.epoch, wake=boot.wake)
    most = 1 if spec.role == "quarantine" else options.batch * ((options.threads or 1) + 1)
    boot.source = Credited(source, most, options.batch)


def _consumer(spec: WorkerSpec, options: JobOptions, intake: Intake, channel: Channel) -> OpenSource:
    """A worker's own consumer of a broker's queue. A broker is not waited for when the supervisor is gone."""
    try:
        from holdfast.sources.amqp import AmqpSource, Bounds
    except ImportError as error:
        raise AppError(f"amqp:// sources need pika: {error}", remedy="pip install 'holdfast[rabbitmq]'") from None

    address = broker.parse_queue(options.source)
    bounds = Bounds(options.batch, options.threads or 1, options.in_flight_bytes, options.max_message, options.crash_limit, options.ordered)
    epoch = int.from_bytes(os.urandom(8), "big") >> 2 | 1
    source = AmqpSource(address, epoch, f"holdfast {spec.id} pid {os.getpid()}", bounds, intake.empty, intake.put_alone)
    source.blame([Suspect(*one) for one in spec.blamed])
    source.connect(time.monotonic() + _CONNECT_SECONDS, channel.fileno())
    return source


def _engine(spec: WorkerSpec) -> EngineFactory:
    if spec.options.ordered and spec.role != "quarantine":
        from holdfast.worker.ordered import OrderedEngine

        return OrderedEngine
    from holdfast.worker.engine import Engine

    return Engine


def _start_threads(boot: Boot) -> None:
    assert boot.board is not None
    options = boot.spec.options
    intake = boot.intake or Intake(options.batch)
    pausing = Pausing(intake, boot.wake)
    in_place = SettingsInPlace(boot.cls.settings, options.threads or 1, boot.wake, intake.stir)
    shared = Surroundings(
        spec=boot.spec,
        cls=boot.cls,
        work=boot.work,
        source=boot.source,
        store=boot.store,
        intake=intake,
        activated=boot.activated,
        draining=boot.draining,
        fault=boot.fault,
        context=_contexts(boot, pausing),
        engine=_engine(boot.spec),
        boards=boot.board.threads,
        settings=in_place,
    )
    crew = Crew(shared, boot.wake)
    talk = SettingsTalk(boot.channel, boot.spec.settings_path, in_place)
    parts = (boot.spec, boot.channel, boot.source, shared, crew, pausing, talk, boot.wake, boot.board, boot.view)
    boot.loop = Loop(LoopParts(*parts, relay=boot.relay, leave_by_ns=boot.leave_by_ns))
    if crew.size == 1:
        sys.setswitchinterval(_SWITCH_SECONDS)
    crew.start()


def _contexts(boot: Boot, pausing: Pausing) -> ContextFactory:
    from holdfast.model.breaker import Breaker

    breaker = Breaker()

    def context(board: ThreadBoard, connection: Connection | None, nap: Callable[[float], bool]) -> EngineContext:
        return EngineContext(
            source=boot.source,
            store=boot.store,
            connection=connection,
            board=board,
            draining=boot.draining.is_set,
            pause=pausing.pause,
            resume=pausing.resume,
            wait=nap,
            breaker=breaker,
            lock=boot.lock,
            fault=boot.fault,
            letters=boot.letters,
            monotonic_ns=time.monotonic_ns,
        )

    return context


STEPS: tuple[tuple[str, Callable[[Boot], None]], ...] = (
    ("specification", _narrow),
    ("settings", _read_settings),
    ("setup_process", _set_up_process),
    ("store", _open_store),
    ("dead letters", _open_letters),
    ("board", _map_board),
    ("source", _open_source),
    ("threads", _start_threads),
)
PREPARE: tuple[tuple[str, Callable[[Boot], None]], ...] = (
    ("supervisor", _end_with_supervisor),
    ("settings", _read_settings),
    ("store", _open_store),
    ("prepare", _install),
)
