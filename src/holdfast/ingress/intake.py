"""One job in the ingress: its doors, its workers, and the holding table between them.

A turn of the loop is: settlements (the workers' sockets) first, so that a flood of new messages does not starve answers; then
new messages, at most BATCH a door; then what can go out to workers, in one frame each; then the counters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import zmq
from msgspec import MsgspecError, convert

from holdfast.ingress.answers import Answered
from holdfast.ingress.door import LINGER_MS, PARKED_TICK, Door
from holdfast.ingress.leased import Frame, WorkerSocket
from holdfast.ingress.notices import Notice
from holdfast.ingress.reactor import READ, WRITE, Reactor
from holdfast.ingress.request import Limits, Listen
from holdfast.model import tally
from holdfast.model.delivery import encode
from holdfast.model.holding import Holding
from holdfast.telemetry import events

#: Answers that a client of a removed job does not take are given up after so many seconds.
PARTING = 1.0

Say = Callable[[dict[str, object]], bool]
"""Speaks to the supervisor; whether it was heard."""


#: What each word of a worker brings along. It is proved before anything is done, since user code lives in that process.
_CREDIT = int
_SETTLED = list[tuple[int, int, bytes]]
_RETRY = list[tuple[int, float, str]]
_BACK = list[int]


@dataclass(frozen=True, slots=True)
class Shared:
    """What the jobs of one ingress have in common."""

    context: zmq.Context[zmq.Socket[bytes]]
    reactor: Reactor
    numbers: Iterator[int]  # a sequence number is unique in the life of the process, not in a job
    say: Say
    board: memoryview


class Intake:
    """Everything of one job. It has no door at first."""

    def __init__(self, job: str, row: int, limits: Limits, shared: Shared) -> None:
        self.job = job
        self.row = row
        self._shared = shared
        self._reactor = shared.reactor
        self.doors: list[Door] = []
        self._made = 0  # doors so far
        self._past: tuple[int, ...] | None = None  # counters of doors that are closed
        self._retired: list[str] = []  # doors that are closed, which the supervisor does not know yet
        self._leaving = False  # whether any door is to be closed
        self._removed_at: float | None = None
        self.holding = Holding(limits.in_flight, limits.in_flight_bytes, limits.crash_limit, shared.numbers)
        self._workers: dict[str, WorkerSocket] = {}
        self._said_suspects = False
        self._counters: tuple[int, ...] = ()
        self._notices = self._make_notices()

    def _make_notices(self) -> tuple[Notice, Notice, Notice]:
        job = self.job
        return (
            Notice("client.refused", "more connections than max_clients: cut", job=job),
            Notice("answer.dropped", "answers dropped: their client does not read and in_flight_per_client are parked", job=job),
            Notice("message.refused", "messages that are no message: too many frames", job=job),
        )

    # What the loop asks

    def turn(self, now: float) -> None:
        """Do what there is to do, without waiting."""
        doors, holding = self.doors, self.holding
        if len(doors) > 1:
            doors.append(doors.pop(0))  # when there is little room, each comes first in its turn
        for door in doors:
            door.turn(holding)
        self._dispatch(now)
        self._tell()
        if self._leaving:
            self._close_doors(now)

    def timeout(self, now: float) -> float | None:
        """How long nothing has to be done here if nothing happens; None: for ever."""
        due = self.holding.next_due()
        wait = None if due is None else max(0.0, due - now)
        for door in self.doors:
            if door.may_read() and self.holding.has_room():
                return 0.0
            if door.parked():
                wait = _sooner(wait, PARKED_TICK)
            if self._leaving:
                wait = _sooner(wait, door.closes_in(now))
        return wait

    def parked(self) -> int:
        """Answers that wait for a slow client."""
        return sum(door.parked() for door in self.doors)

    # Doors

    def open_door(self, wanted: Listen, listener: int | None) -> None:
        """Listen, or connect, as well; ValueError or zmq.ZMQError when it cannot be, and then nothing has changed.

        It reads nothing yet. A job that was to be removed is not any more.
        """
        shared = self._shared
        self.doors.append(Door(wanted, self._made, listener, shared.context, shared.reactor, self._notices[0]))
        self._made += 1
        self._removed_at = None
        self.row = wanted.row

    def read(self, reading: bool) -> None:
        """Take messages in, at every door; or at none."""
        for door in self.doors:
            door.reading = reading and self._removed_at is None

    def limit(self, limits: Limits, affordable: Callable[[Door], Limits]) -> None:
        """These are the job's limits from now on; `affordable` says those of a door."""
        self.holding.limit(limits.in_flight, limits.in_flight_bytes, limits.crash_limit)
        for door in self.doors:
            door.limit(affordable(door))

    def retire(self, doors: Sequence[Door], now: float, shut: bool) -> None:
        """Close these doors as soon as nobody is there any more who came by them, and say so."""
        for door in doors:
            door.retire(now, shut)
        self._leaving = True

    def remove(self, now: float) -> None:
        """Take in nothing more; `is_over` says when the rest is done."""
        self.retire(self.doors, now, shut=True)
        self._removed_at = now
        self.read(False)

    def is_over(self, now: float) -> bool:
        """Whether this job is to be removed and nobody is to be told anything any more."""
        if self._removed_at is None or self.holding.held:
            return False
        return not self.parked() or now >= self._removed_at + PARTING

    def has_nothing(self) -> bool:
        """Whether every door is closed and nothing is held."""
        return not self.doors and not self._retired and not self.holding.held

    def _close_doors(self, now: float) -> None:
        for door in [door for door in self.doors if door.closes_in(now) == 0.0]:
            self.doors.remove(door)
            past = (*door.counters()[:-_OF_NOW], *(0,) * _OF_NOW)
            self._past = past if self._past is None else _added(self._past, past)
            door.close(LINGER_MS)
            events.log("door.retired", door.name, job=self.job)
            self._retired.append(door.name)
        while self._retired and self._shared.say({"say": "retired", "door": self._retired[0]}):
            self._retired.pop(0)
        self._leaving = bool(self._retired) or any(door.retired_at is not None for door in self.doors)

    def has_workers(self) -> bool:
        """Whether anybody is left who could settle a message."""
        return bool(self._workers)

    # Workers

    def has(self, worker: str) -> bool:
        """Whether this worker was attached and is not known to be dead."""
        return self.holding.knows(worker)

    def attach(self, worker: str, fd: int, quarantine: bool) -> None:
        """A worker is there, at the other end of this data socket."""
        self.holding.attach(worker, quarantine)
        sock = self._workers[worker] = WorkerSocket(fd)
        self._reactor.watch(sock.fileno(), partial(self._worker_ready, worker, sock))

    def dead(self, worker: str, suspects: Sequence[int], reason: str) -> None:
        """A worker is dead: what it has settled counts, what it has not goes to others."""
        sock = self._workers.pop(worker, None)
        if sock is not None:
            self._reactor.forget(sock.fileno())
            self._apply(worker, sock, sock.remains())
            sock.close()
        redelivered = self.holding.worker_dead(worker, set(suspects), reason)
        events.log("worker.dead", reason, job=self.job, worker=worker, redelivered=redelivered, suspects=len(suspects))

    def _worker_ready(self, worker: str, sock: WorkerSocket, happened: int) -> None:
        if happened & WRITE and sock.flush():
            self._reactor.want(sock.fileno(), READ)
            self.holding.clog(worker, False)
        if happened & ~WRITE:
            try:
                self._apply(worker, sock, sock.receive())
            except EOFError:
                self._part(worker, sock)

    def _apply(self, worker: str, sock: WorkerSocket, frames: Iterator[Frame]) -> None:
        """Do what the worker says. One that speaks nonsense sees the end of its source, and leaves."""
        try:
            for verb, content in frames:
                self._frame(worker, verb, content)
        except (MsgspecError, ValueError) as error:
            events.log("worker.broken", f"not understood: {error}", "error", job=self.job, worker=worker)
            sock.shut()

    def _frame(self, worker: str, verb: str, content: object) -> None:
        if verb == "settled":
            self._answer(self.holding.settled(worker, convert(content, _SETTLED)))
        elif verb == "credit":
            self.holding.credit(worker, convert(content, _CREDIT))
        elif verb == "retry":
            self.holding.retry(worker, convert(content, _RETRY), time.monotonic())
        elif verb == "back":
            self.holding.back(worker, convert(content, _BACK))
        else:
            raise ValueError(f"unknown frame {verb!r}")

    def _part(self, worker: str, sock: WorkerSocket) -> None:
        """The end of the socket is not the death of the worker: only the supervisor says that, and what had been begun."""
        self._reactor.forget(sock.fileno())
        self.holding.part(worker)
        self._workers.pop(worker).close()

    def _dispatch(self, now: float) -> None:
        while sends := self.holding.dispatch(now):
            for worker, deliveries in sends:
                sock = self._workers[worker]
                if not sock.send(encode(("m", deliveries))):
                    self.holding.clog(worker, True)
                    self._reactor.want(sock.fileno(), READ | WRITE)

    def _answer(self, settled: list[Answered]) -> None:
        """Each by the door that its message came by. That one is there: it is not closed while anything of it is held."""
        if len(self.doors) == 1:
            self.doors[0].answer(settled)
            return
        for door in self.doors:
            door.answer([answered for answered in settled if answered[0][0] == door.number])

    # Telling

    def _tell(self) -> None:
        """Bring the supervisor's view up to date, where something has changed."""
        suspects = self.holding.suspects
        if bool(suspects) != self._said_suspects and self._shared.say({"say": "suspects", "job": self.job, "count": suspects}):
            self._said_suspects = bool(suspects)
        counters = self._count(suspects)
        if counters != self._counters:
            self._report(counters)
            self._counters = counters
            tally.write(self._shared.board, self.row, counters)

    def _count(self, suspects: int) -> tuple[int, ...]:
        """In the order of holdfast.model.tally.COLUMNS."""
        holding = self.holding
        parts = [door.counters() for door in self.doors]
        sent = parts[0] if len(parts) == 1 and self._past is None else _added(self._past or _NOTHING, *parts)
        return holding.held, holding.held_bytes, holding.waiting, holding.received, holding.redelivered, suspects, *sent

    def _report(self, counters: tuple[int, ...]) -> None:
        """Log what was dropped or refused since the last time."""
        before = self._counters or (0,) * len(counters)
        for notice, column in ((self._notices[1], _DROPPED), (self._notices[2], _REFUSED)):
            if counters[column] != before[column]:
                notice.add(counters[column] - before[column])

    def close(self, linger_ms: int) -> None:
        """Close everything; answers that libzmq has may still leave for so long."""
        for sock in self._workers.values():
            self._reactor.forget(sock.fileno())
            sock.close()
        for door in self.doors:
            door.close(linger_ms)
        self.doors.clear()

    def clear(self) -> None:
        """The job is no more: nothing of it is to be seen in its row."""
        tally.write(self._shared.board, self.row, (0,) * len(tally.COLUMNS))


def _sooner(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _added(*rows: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


_DROPPED = tally.COLUMNS.index("dropped")
_REFUSED = tally.COLUMNS.index("refused")
_OF_NOW = 2  # the last columns tell of the moment: parked, clients
_NOTHING = (0,) * 6  # what a door counts
