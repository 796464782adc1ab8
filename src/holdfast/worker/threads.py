"""The handler threads of one worker process: each with its own job instance, connection and engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

from holdfast.errors import UnavailableError
from holdfast.model.board import ThreadBoard
from holdfast.model.delivery import Delivery
from holdfast.model.job import Job
from holdfast.model.spec import Work, WorkerSpec
from holdfast.sources.base import Source
from holdfast.stores.base import Connection, Fault, Store
from holdfast.telemetry import events
from holdfast.worker.engine_context import EngineContext
from holdfast.worker.intake import STIRRED, Intake
from holdfast.worker.runtime import ThreadRuntime, only_here
from holdfast.worker.settings_in_place import Attention, SettingsInPlace
from holdfast.worker.trace import reason_of, trace_of


class Engine(Protocol):
    """What happens with a batch inside a thread: `holdfast.worker.engine.Engine`."""

    def process(self, deliveries: Sequence[Delivery]) -> list[Delivery]: ...
    def retry_letters(self) -> None: ...
    def close(self) -> None: ...


EngineFactory = Callable[[Job, WorkerSpec, EngineContext], Engine]
ContextFactory = Callable[[ThreadBoard, Connection | None, Callable[[float], bool]], EngineContext]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the threads of a process share."""

    spec: WorkerSpec
    cls: type[Job]
    work: Work
    source: Source | None
    store: Store | None
    intake: Intake
    activated: threading.Event
    draining: threading.Event
    boards: Sequence[ThreadBoard]
    fault: Callable[[str], None]
    context: ContextFactory
    engine: EngineFactory
    settings: SettingsInPlace

    def tried(self) -> int:
        """How many messages, or rounds of run(), this process has tried."""
        return sum(board.tried() for board in self.boards)

    def due(self) -> bool:
        """Whether that is as many as one worker should."""
        return 0 < self.spec.most_messages <= self.tried()


class Crew:
    """All handler threads. The I/O loop asks it where they are, after each `wake`."""

    def __init__(self, shared: Surroundings, wake: Callable[[], None]) -> None:
        self._shared = shared
        self._wake = wake
        self._lock = threading.Lock()
        self._ready = 0
        self._ended = 0
        self.size = shared.spec.options.threads or 1
        #: What the first failing `setup` (or the constructor, or the connection) raised.
        self.failure: BaseException | None = None
        #: What an engine raised, which none should.
        self.broken: BaseException | None = None

    def start(self) -> None:
        """Start every thread; they set themselves up side by side."""
        for index in range(self.size):
            threading.Thread(target=self._live, args=(index,), name=f"{self._shared.spec.job}-{index}", daemon=True).start()

    @property
    def ready(self) -> bool:
        """Every thread is set up."""
        return self._ready == self.size

    @property
    def ended(self) -> bool:
        """Every thread has finished what it had begun, torn down and closed."""
        return self._ended == self.size

    def _live(self, index: int) -> None:
        try:
            hand = Hand(self._shared, index, self._wake)
        except BaseException as error:
            self._changed(failure=error)
            return
        self._changed(ready=1)
        try:
            hand.work()
            hand.leave()
        except BaseException as error:
            self._changed(broken=error)
            return
        self._changed(ended=1)

    def _changed(
        self, *, ready: int = 0, ended: int = 0, failure: BaseException | None = None, broken: BaseException | None = None
    ) -> None:
        with self._lock:
            self._ready += ready
            self._ended += ended
            self.failure = self.failure or failure
            self.broken = self.broken or broken
        self._wake()


class Hand:
    """One handler thread's own things; built on that thread."""

    def __init__(self, shared: Surroundings, index: int, wake: Callable[[], None]) -> None:
        self._shared = shared
        self._wake = wake
        shared.boards[index].belongs_to(threading.get_ident())
        self._job = only_here(shared.cls)()
        self._connection = connect(shared.store)
        self._job.reload = only_here(self._job.reload)  # type: ignore[method-assign]
        board, options = shared.boards[index], shared.spec.options
        self._attention = Attention(index, self._job, shared.settings, shared.draining, board, options.timeout)
        self._job._runtime = ThreadRuntime(shared.work, shared.draining, self._connection, self._attention)
        setattr(self._job, shared.work, only_here(getattr(self._job, shared.work)))
        self._job.identity = only_here(self._job.identity)  # type: ignore[method-assign]
        self._job.key = only_here(self._job.key)  # type: ignore[method-assign]
        self._board = board
        context = shared.context(board, self._connection, self._attention.nap)
        self._engine = None if shared.work == "run" else shared.engine(self._job, shared.spec, context)
        only_here(self._job.setup)()

    def work(self) -> None:
        """Until the process drains."""
        if self._engine is None:
            self._run_again_and_again()
        else:
            self._take_and_process(self._engine)

    def leave(self) -> None:
        """Tear down and close; what goes wrong then is told and changes nothing."""
        for step in (only_here(self._job.teardown), self._engine and self._engine.close, self._connection and self._connection.close):
            try:
                if step:
                    step()
            except BaseException as error:
                _tell("teardown.failed", error)

    def _take_and_process(self, engine: Engine) -> None:
        intake, source = self._shared.intake, self._shared.source
        while (deliveries := intake.take(self._attention.behind)) is not None:
            self._attention.look_up()
            if deliveries is STIRRED:
                continue
            if not deliveries:
                engine.retry_letters()
                continue
            rest = engine.process(deliveries)
            if rest and source is not None:
                source.give_back([delivery.seq for delivery in rest])
            self._look_whether_due()

    def _look_whether_due(self) -> None:
        if self._shared.due():
            self._wake()

    def _run_again_and_again(self) -> None:
        activated, draining = self._shared.activated, self._shared.draining
        while not activated.is_set():
            self._attention.nap(None)
        while not draining.is_set():
            self._attention.look_up()
            try:
                self._job.run()  # type: ignore[attr-defined]
                self._board.count("handled")
            except BaseException as error:
                self._board.count("failed")
                _tell("run.failed", error)
            self._look_whether_due()
            self._attention.rest(self._shared.spec.options.interval)


def connect(store: Store | None) -> Connection | None:
    """A connection of the calling thread; UnavailableError when the store is not to be had."""
    if store is None:
        return None
    try:
        return store.connect()
    except Exception as error:
        raise_unavailable(store, error)


def raise_unavailable(store: Store, error: Exception) -> NoReturn:
    """Raise the same error, as UnavailableError where it says that the store is away."""
    if isinstance(error, UnavailableError) or store.fault(error) not in (Fault.AWAY, Fault.LOST):
        raise error
    raise UnavailableError(f"the store is not to be had: {reason_of(error)}") from error


def _tell(event: str, error: BaseException) -> None:
    events.log(event, f"{reason_of(error)}\n{trace_of(error)}", level="error", pid=os.getpid())
