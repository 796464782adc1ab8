"""A world around one engine: a source that remembers, a clock that moves when somebody waits, a store whose weather is planned."""

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from holdfast import Job, Message, Reject
from holdfast.model import board
from holdfast.model.breaker import Breaker
from holdfast.model.delivery import Delivery
from holdfast.model.options import JobOptions
from holdfast.model.spec import WorkerSpec
from holdfast.sources.base import Settlement
from holdfast.stores import open_store
from holdfast.stores.base import DeadLetter, Fault
from holdfast.stores.letter_files import LetterFiles
from holdfast.testing import databases
from holdfast.testing.clock import FakeClock
from holdfast.worker.engine import Engine
from holdfast.worker.engine_context import EngineContext

SCHEMA = """CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER);
    CREATE TABLE IF NOT EXISTS orm (name VARCHAR(60) NOT NULL PRIMARY KEY)"""


class Source:
    """What an ingress does, without its process: holds what is out, delivers again what came back."""

    epoch = 7
    name = "memory://"

    def __init__(self, clock: FakeClock, answers: bool) -> None:
        self.answers = answers
        self.settled: dict[int, Settlement] = {}
        self.calls: list[list[int]] = []  # the sequences of each settle
        self.retries: list[tuple[int, float, str]] = []
        self.given_back: list[int] = []
        self.waiting: list[Delivery] = []
        self.held: dict[int, Delivery] = {}
        self._clock = clock
        self._last = 0

    def put(self, body: bytes, **more: Any) -> int:
        self._last += 1
        self.waiting.append(Delivery(self._last, body, self._clock.monotonic_ns(), **more))
        return self._last

    def take(self, most: int = 10**6) -> list[Delivery]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        self.held.update((delivery.seq, delivery) for delivery in taken)
        return taken

    def settle(self, settlements: Any) -> None:
        self.calls.append([item.seq for item in settlements])
        for item in settlements:
            del self.held[item.seq]
            self.settled[item.seq] = item

    def retry(self, seq: int, delay: float, reason: str) -> None:
        self.retries.append((seq, delay, reason))
        delivery = self.held.pop(seq)
        self.waiting.append(msgspec.structs.replace(delivery, attempt=delivery.attempt + 1))

    def give_back(self, seqs: Any) -> None:
        self.given_back += seqs
        self.waiting += [self.held.pop(seq) for seq in seqs]

    def worker_died(self) -> None:
        """What the worker had is delivered again; its redelivery says that a commit may have happened."""
        self.waiting = [msgspec.structs.replace(delivery, redelivered=True) for delivery in self.held.values()] + self.waiting
        self.held.clear()


class Transient(Exception):
    """A deadlock, say."""


class Away(Exception):
    """The connection is lost."""


class Full(Exception):
    """The store says that it cannot."""


class Refused(Exception):
    """A constraint that is checked at the end, say."""


class Died(BaseException):
    """The process is gone in this moment."""


ERRORS = {"transient": Transient, "away": Away, "full": Full, "refused": Refused}
FAULTS = {Transient: Fault.TRANSIENT, Away: Fault.LOST, Full: Fault.AWAY, Refused: Fault.MESSAGE}


class Weather:
    """`plan` maps an operation to what its next calls do: "fine", "transient", "away", "refused"; for commit also "away after"."""

    def __init__(self, connection: Any, plan: dict[str, list[str]]) -> None:
        self._connection = connection
        self._plan = plan
        self.claimed = 0

    def strike(self, operation: str) -> str:
        how = (self._plan.get(operation) or ["fine"]).pop(0) if self._plan.get(operation) else "fine"
        if how in ERRORS:
            raise ERRORS[how](f"{operation} failed")
        return how

    def begin(self) -> Any:
        self.strike("begin")
        return Struck(self._connection.begin(), self)

    def probe(self) -> None:
        self.begin().rollback()

    def close(self) -> None:
        self._connection.close()


class Struck:
    """A transaction out in the weather."""

    def __init__(self, transaction: Any, weather: Weather) -> None:
        self._transaction = transaction
        self._weather = weather

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def claim(self, claims: Any) -> Any:
        self._weather.strike("claim")
        self._weather.claimed += len(claims)
        return self._transaction.claim(claims)

    def record(self, answers: Any) -> None:
        self._weather.strike("record")
        self._transaction.record(answers)

    def bury(self, letter: DeadLetter) -> None:
        self._weather.strike("bury")
        self._transaction.bury(letter)

    def commit(self) -> None:
        how = self._weather.strike("commit")
        self._transaction.commit()
        if how == "away after":
            raise Away("the answer to the commit was lost")


class Files(LetterFiles):
    """Dead letters beside the store, on a disk that may be full."""

    broken = 0  # so many writes fail

    def bury(self, letter: DeadLetter) -> None:
        if self.broken:
            self.broken -= 1
            raise OSError("no space left on device")
        super().bury(letter)

    def whole(self) -> list[DeadLetter]:
        return [letter for each in self.all() if (letter := self.show(each.id)) is not None]


class World:
    """One database file, one source, and one engine at a time."""

    def __init__(
        self,
        folder: Path,
        job: type[Job],
        *,
        stored: bool = True,
        answers: bool = True,
        plan: dict[str, list[str]] | None = None,
        url: str = "",
        **options: Any,
    ) -> None:
        self.path = folder / "fee.db"
        self.url = url or f"sqlite:///{self.path}"
        self.clock = FakeClock()
        self.source = Source(self.clock, answers)
        self.job = job
        self.files = Files(str(folder))
        self.paused: list[str] = []
        self.resumed = 0
        self.waits: list[float] = []
        self.points: list[str] = []
        self.draining = False
        self.on_wait: Callable[[], None] = lambda: None
        self.on_point: Callable[[str], None] = lambda _point: None
        self.store: Any = self._open_store(job) if stored else None
        chosen = {"retries": 0, "dead_letter": "store", "threads": 1, "batch_age": 1000.0, "answer_within": 10.0, **options}
        self.spec = WorkerSpec(
            "Add/0.1", "worker", "Add", "Add", 1, JobOptions(store=self.url if stored else "", **chosen), str(folder), 5.0
        )
        self.plan = plan if plan is not None else {}
        self.breaker = Breaker()
        self.memory = memoryview(bytearray(board.size(1, self.spec.options.batch)))
        self.writer = board.BoardWriter(self.memory, 1, self.spec.options.batch, 1)
        self.start()

    def _open_store(self, job: type[Job]) -> Any:
        store = open_store(self.url, "Add", timeout=30.0)
        store.install(job.schema, job.prepare)
        fault = store.fault
        store.fault = lambda error: FAULTS.get(type(error)) or fault(error)
        return store

    def start(self) -> None:
        """A new worker: its own engine and connection."""
        self.connection = Weather(self.store.connect(), self.plan) if self.store is not None else None
        context = EngineContext(
            source=self.source,  # type: ignore[arg-type]
            store=self.store,
            connection=self.connection,
            board=self.writer.threads[0],
            draining=lambda: self.draining,
            pause=self.paused.append,
            resume=self._resume,
            wait=self._wait,
            breaker=self.breaker,
            lock=threading.Lock(),
            fault=self._point,
            letters=self.files if self.store is None or self.spec.options.dead_letter == "state_dir" else None,
            monotonic_ns=self.clock.monotonic_ns,
        )
        self.engine = Engine(self.job(), self.spec, context, draw=lambda: 0.5)

    def die(self) -> None:
        """The worker is gone; another one gets what it had."""
        self.source.worker_died()
        self.start_anew()

    def start_anew(self) -> None:
        """The worker has drained; another one takes its place."""
        if self.connection is not None:
            self.connection.close()
        self.start()

    def _resume(self) -> None:
        self.resumed += 1

    def _wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.clock.advance(max(seconds, 1e-6))
        self.on_wait()
        return not self.draining

    def _point(self, point: str) -> None:
        self.points.append(point)
        self.on_point(point)

    def send(self, *bodies: str) -> list[int]:
        return [self.source.put(body.encode()) for body in bodies]

    def run(self, most: int = 10**6) -> None:
        """Process what waits, and what comes back, until nothing does."""
        while deliveries := self.source.take(most):
            rest = self.engine.process(deliveries)
            if rest:
                self.source.give_back([delivery.seq for delivery in rest])
                return

    def query(self, sql: str) -> list[Any]:
        if not self.url.startswith("sqlite"):
            return databases.query(self.url, sql)
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def volumes(self) -> dict[str, int]:
        return dict(self.query("SELECT name, sum(volume) FROM account GROUP BY name"))

    def outcomes(self) -> list[tuple[int, bytes]]:
        return [(item.outcome, item.answer) for _seq, item in sorted(self.source.settled.items())]

    def letters(self) -> list[DeadLetter]:
        letters = self.store.letters()
        return [letters.show(letter.id) for letter in letters.all()]

    def counters(self) -> dict[str, int]:
        return board.read(self.memory, self.clock.monotonic_ns()).counters

    def close(self) -> None:
        self.engine.close()
        if self.connection is not None:
            self.connection.close()
            self.store.close()


Build = Callable[..., World]


def raising(error: BaseException) -> Callable[[Any], None]:
    def work(db: Any) -> None:
        raise error

    return work


def swallow(db: Any) -> None:
    try:
        db.execute("INSERT INTO no_such_table VALUES (1)")
    except Exception:
        return


def swallow_inside_savepoint(db: Any) -> None:
    try:
        with db.savepoint():
            db.execute("INSERT INTO no_such_table VALUES (1)")
    except Exception:
        return


def orm_rollback(db: Any) -> None:
    session = db.session()
    session.connection()
    session.rollback()


def commit_on_connection(db: Any) -> None:
    db.connection.commit()


class Row(DeclarativeBase):
    pass


class Account(Row):
    __tablename__ = "orm"
    name: Mapped[str] = mapped_column(primary_key=True)


def orm_left_open(db: Any) -> None:
    db.session().add(Account(name="x"))


def orm_broken(db: Any) -> None:
    db.session().add_all([Account(name="y"), Account(name=None)])


def savepoint_left_open(db: Any) -> None:
    db.connection.begin_nested()


def savepoint_left_open_inside(db: Any) -> None:
    with db.savepoint():
        db.connection.begin_nested()


MISBEHAVE: dict[str, Callable[[Any], None]] = {
    "": lambda _db: None,
    "answer": lambda _db: None,
    "raise": raising(RuntimeError("boom")),
    "exit": raising(SystemExit(3)),
    "interrupt": raising(KeyboardInterrupt()),
    "reject": raising(Reject("no")),
    "swallow": swallow,
    "savepoint": swallow_inside_savepoint,
    "commit": lambda db: db.execute("COMMIT"),
    "rollback": lambda db: db.execute("ROLLBACK"),
    "connection": commit_on_connection,
    "orm": orm_rollback,
    "orm-open": orm_left_open,
    "orm-broken": orm_broken,
    "nested": savepoint_left_open,
    "nested-inside": savepoint_left_open_inside,
    "ddl": lambda db: db.execute("CREATE TABLE IF NOT EXISTS other (a TEXT)"),
}
INNOCENT = {"", "answer", "savepoint", "orm", "orm-open", "ddl"}


class Add(Job):
    """Body "name,volume[,misbehaviour]"; an effect that happens twice shows twice. `runs` counts the runs of each name."""

    schema = SCHEMA
    runs: dict[str, int]

    def __init__(self) -> None:
        type(self).runs = {}

    def handle(self, message: Message, db: Any) -> Any:
        return self.one(message, db)

    def one(self, message: Message, db: Any) -> Any:
        name, volume, *rest = message.text.split(",")
        misbehave = rest[0] if rest else ""
        self.runs[name] = self.runs.get(name, 0) + 1
        if misbehave == "reject-first":
            raise Reject("not wanted")
        db.execute("INSERT INTO account (name, volume) VALUES (:n, :v)", {"n": name, "v": volume})
        if misbehave == "number":
            return 42
        if misbehave == "long":
            return "x" * 70_000
        MISBEHAVE[misbehave](db)
        return f"ok {name}" if misbehave == "answer" else None


class ByName(Add):
    def identity(self, message: Message) -> str:
        return message.text.split(",")[0]


class InBatches(Add):
    handle = None  # type: ignore[assignment]

    def handle_batch(self, messages: list[Message], db: Any) -> list[Any]:
        return [Reject("this one") if message.body.endswith(b",item") else self.one(message, db) for message in messages]
