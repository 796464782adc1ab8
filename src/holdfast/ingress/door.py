"""One way into a job: a ZeroMQ socket with its clients, from `listen` until the last of them has left.

ZeroMQ's descriptor tells of *changes* only: after every use of the socket its state has to be asked for again before the
loop may wait. `_readable` remembers the last answer, also while nothing is read since there is no room.

A door is never closed under its clients: unbind() and close() would cut them. It *retires*: nobody new comes in, and it is closed
when the last has gone and nothing is owed to anybody.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import zmq

from holdfast.ingress.answers import Answered
from holdfast.ingress.clients import Clients
from holdfast.ingress.notices import Notice
from holdfast.ingress.reactor import Reactor
from holdfast.ingress.request import Limits, Listen
from holdfast.ingress.sockets import begin, limit, open_socket
from holdfast.ingress.transports import make
from holdfast.model.holding import Holding

BATCH = 256
#: While an answer is parked its client is tried again this often, even if ZeroMQ tells of no change (it may have told
#: while we were sending to somebody else).
PARKED_TICK = 0.05
LINGER_MS = 1000  # how long libzmq may take to bring the last answers of a closed door out
#: A door that retires waits so long for whoever was half way in: its greeting was answered by the kernel, or its connection is
#: not yet accepted. It would lose the request that it has sent already.
LATECOMERS = 1.0


class Door:
    """Takes over `listener`, unless it raises ValueError or zmq.ZMQError. `number` is its own in the job, for ever."""

    def __init__(
        self,
        wanted: Listen,
        number: int,
        listener: int | None,
        context: zmq.Context[zmq.Socket[bytes]],
        reactor: Reactor,
        refused: Notice,
    ) -> None:
        self.name = wanted.door
        self.number = number
        self._limits = wanted.limits
        self._connects = wanted.connect
        self._publisher = wanted.endpoint if wanted.connect and wanted.transport == "sub" else ""
        self._reactor = reactor
        self._refused = refused
        self._socket = open_socket(context, wanted)
        self.clients = Clients(context, self._socket, wanted.limits.max_clients, None if wanted.connect else listener)
        self._begin(wanted, listener)
        self.transport = make(self._socket, wanted, number)
        self.answers = self.transport.answers
        self.held = 0  # messages that came in here and are not settled
        self.reading = False
        self.retired_at: float | None = None
        self._readable = True
        self._touched = True
        self._fd = int(self._socket.get(zmq.FD))
        self._clients_fd = self.clients.fileno()
        reactor.watch(self._fd, self._socket_changed)
        reactor.watch(self._clients_fd, self._clients_changed)

    def _begin(self, wanted: Listen, listener: int | None) -> None:
        try:
            begin(self._socket, wanted, listener)
        except BaseException:
            self.clients.close()
            self._socket.close(0)
            raise

    # A turn

    def turn(self, holding: Holding) -> None:
        """Send what is parked, take in what there is room for; without waiting."""
        if self.answers is not None and self.answers.parked:
            self.answers.retry()
            self._touched = True
        if self.reading and self._readable:
            before = holding.received
            self._readable = self.transport.read(holding, BATCH, time.monotonic_ns())
            self.held += holding.received - before
            self._touched = True
        if self._touched:
            self._touched = False
            self._readable = self._has_input()

    def answer(self, settled: Sequence[Answered]) -> None:
        """These came in here, and are settled."""
        self.held -= len(settled)
        self._touched = True
        self.transport.answer(settled)

    def may_read(self) -> bool:
        """Whether there is something to read, if there is room for it."""
        return self.reading and self._readable

    def parked(self) -> int:
        """Answers that wait for a slow client."""
        return self.answers.parked if self.answers is not None else 0

    def _socket_changed(self, _happened: int) -> None:
        self._touched = True
        self._readable = self._has_input()

    def _has_input(self) -> bool:
        return bool(int(self._socket.get(zmq.EVENTS)) & _POLLIN)

    def _clients_changed(self, _happened: int) -> None:
        self._refused.add(self.clients.read())

    # What the supervisor and the job want of it

    def granted(self) -> int:
        """How many descriptors its clients may come to use."""
        return self._limits.max_clients if self.retired_at is None else len(self.clients)

    def limit(self, limits: Limits) -> None:
        """These limits from now on, as far as libzmq takes them: those of a message's size and of the greeting stay as they were."""
        self._limits = limits
        self.clients.limit(limits.max_clients)
        if self.answers is not None:
            self.answers.limit(limits)
        limit(self._socket, limits)

    def retire(self, now: float, shut: bool) -> None:
        """No new client; with `shut` this door sees to it, else the supervisor has (it took the path away, or steers)."""
        if shut and not self._connects:
            self.clients.shut_for_good()
        if self._publisher:  # it publishes on, and whoever takes our place would get the same; what has come is read
            self._socket.disconnect(self._publisher)
            self._publisher, self._touched = "", True
        if self.retired_at is None:
            self.retired_at = now

    def closes_in(self, now: float) -> float | None:
        """Seconds until this door may be closed if nothing happens; 0: now; None: it is not to be closed, or its clients are there.

        Of a connecting door nobody can tell when its peers are done: it is over with what they have sent by now.
        """
        if self.retired_at is None or self.held or self._readable or self.parked():
            return None
        if self._connects:
            return 0.0
        return None if len(self.clients) else max(0.0, self.retired_at + LATECOMERS - now)

    def counters(self) -> tuple[int, ...]:
        """In the order of holdfast.model.tally.COLUMNS: answered, refused, gone, dropped, parked, clients."""
        answers, refused, clients = self.answers, self.transport.refused, len(self.clients)
        if answers is None:
            return 0, refused, 0, 0, 0, clients
        return answers.answered, refused, answers.gone, answers.dropped, answers.parked, clients

    def close(self, linger_ms: int) -> None:
        """Close everything; answers that libzmq has may still leave for so long."""
        self._reactor.forget(self._fd)
        self._reactor.forget(self._clients_fd)
        self.clients.close()
        self._socket.close(linger_ms)


_POLLIN = int(zmq.POLLIN)
