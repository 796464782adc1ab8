"""One job in the ingress: its socket, its clients, its workers, and the holding table between them.

A turn of the loop is: settlements (the workers' sockets) first, so that a flood of new messages does not starve answers; then
new messages, at most BATCH; then what can go out to workers, in one frame each; then the counters.

ZeroMQ's descriptor tells of *changes* only: after every use of the socket its state has to be asked for again before the
loop may wait. `_readable` remembers the last answer, also while nothing is read since there is no room.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import zmq
from msgspec import MsgspecError, convert

from holdfast.ingress.clients import Clients
from holdfast.ingress.leased import Frame, WorkerSocket
from holdfast.ingress.notices import Notice
from holdfast.ingress.reactor import READ, WRITE, Reactor
from holdfast.ingress.request import Listen
from holdfast.ingress.sockets import begin, open_socket
from holdfast.ingress.transports import make
from holdfast.model import tally
from holdfast.model.delivery import encode
from holdfast.model.holding import Holding
from holdfast.telemetry import events

BATCH = 256
#: While an answer is parked its client is tried again this often, even if ZeroMQ tells of no change (it may have told
#: while we were sending to somebody else).
PARKED_TICK = 0.05

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
    """Everything of one job. Takes over `listener`, unless it raises ValueError or zmq.ZMQError."""

    def __init__(self, wanted: Listen, listener: int | None, shared: Shared) -> None:
        self.job = wanted.job
        self.wanted = wanted
        self._shared = shared
        self._reactor = reactor = shared.reactor
        limits = wanted.limits
        self._socket = open_socket(shared.context, wanted)
        self._clients = Clients(shared.context, self._socket, limits.max_clients, None if wanted.connect else listener)
        self._begin(listener)
        self._transport = make(self._socket, wanted)
        self.holding = Holding(limits.in_flight, limits.in_flight_bytes, limits.crash_limit, shared.numbers)
        self._workers: dict[str, WorkerSocket] = {}
        self._readable = True
        self._touched = True
        self._said_suspects = False
        self._counters: tuple[int, ...] = ()
        self._notices = self._make_notices()
        self._fd = int(self._socket.get(zmq.FD))
        self._clients_fd = self._clients.fileno()
        reactor.watch(self._fd, self._socket_changed)
        reactor.watch(self._clients_fd, self._clients_changed)

    def _begin(self, listener: int | None) -> None:
        try:
            begin(self._socket, self.wanted, listener)
        except BaseException:
            self._clients.close()
            self._socket.close(0)
            raise

    def _make_notices(self) -> tuple[Notice, Notice, Notice]:
        job = self.job
        return (
            Notice("client.refused", "more connections than max_clients: cut", job=job),
            Notice("answer.dropped", "answers dropped: their client does not read and in_flight_per_client are parked", job=job),
            Notice("message.refused", "messages that are no message: too many frames", job=job),
        )

    # What the loop asks

    def turn(self, now: float, reading: bool) -> None:
        """Do what there is to do, without waiting."""
        answers = self._transport.answers
        if answers is not None and answers.parked:
            answers.retry()
            self._touched = True
        if reading and self._readable:
            self._readable = self._transport.read(self.holding, BATCH, time.monotonic_ns())
            self._touched = True
        self._dispatch(now)
        self._tell()
        if self._touched:
            self._touched = False
            self._readable = self._has_input()

    def timeout(self, now: float, reading: bool) -> float | None:
        """How long nothing has to be done here if nothing happens; None: for ever."""
        if reading and self._readable and self.holding.has_room():
            return 0.0
        due = self.holding.next_due()
        wait = None if due is None else max(0.0, due - now)
        answers = self._transport.answers
        if answers is not None and answers.parked:
            return PARKED_TICK if wait is None else min(PARKED_TICK, wait)
        return wait

    def parked(self) -> int:
        """Answers that wait for a slow client."""
        return self._transport.answers.parked if self._transport.answers is not None else 0

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
            self._transport.answer(self.holding.settled(worker, convert(content, _SETTLED)))
            self._touched = True
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

    # The socket and its clients

    def _socket_changed(self, _happened: int) -> None:
        self._touched = True
        self._readable = self._has_input()

    def _has_input(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & _POLLIN)

    def _clients_changed(self, _happened: int) -> None:
        self._notices[0].add(self._clients.read())

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
            tally.write(self._shared.board, self.wanted.row, counters)

    def _count(self, suspects: int) -> tuple[int, ...]:
        """In the order of holdfast.model.tally.COLUMNS."""
        holding, answers = self.holding, self._transport.answers
        held = (holding.held, holding.held_bytes, holding.waiting, holding.received)
        sent = (
            (answers.answered, self._transport.refused, answers.gone, answers.dropped, answers.parked)
            if answers
            else (0, self._transport.refused, 0, 0, 0)
        )
        return *held, *sent, holding.redelivered, suspects, len(self._clients)

    def _report(self, counters: tuple[int, ...]) -> None:
        """Log what was dropped or refused since the last time."""
        before = self._counters or (0,) * len(counters)
        for notice, column in ((self._notices[1], _DROPPED), (self._notices[2], _REFUSED)):
            if counters[column] != before[column]:
                notice.add(counters[column] - before[column])

    def close(self, linger_ms: int) -> None:
        """Close everything; answers that libzmq has may still leave for so long."""
        self._reactor.forget(self._fd)
        self._reactor.forget(self._clients_fd)
        for sock in self._workers.values():
            self._reactor.forget(sock.fileno())
            sock.close()
        self._clients.close()
        self._socket.close(linger_ms)


_POLLIN = int(zmq.POLLIN)
_DROPPED = tally.COLUMNS.index("dropped")
_REFUSED = tally.COLUMNS.index("refused")
