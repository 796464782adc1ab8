"""Answers on their way to clients: sent at once, or parked for a client that reads slowly, or counted as lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable

import zmq

from holdfast.ingress.request import Limits

Route = tuple[int, bytes, tuple[bytes, ...]]
"""How a client is found again: the number of the door it came by, its identity, and the frames before the body.

A number and no object: millions of these are held, and Python's garbage collector leaves a tuple of such plain values alone.
"""

Answered = tuple[Route, bytes]

_MORE = zmq.NOBLOCK.value | zmq.SNDMORE.value
_LAST = zmq.NOBLOCK.value


#: A client that has taken nothing for so long does not read. Until then a burst of answers may be longer than its limit: one
#: commit can settle thousands of a pipelining client's messages at once.
PATIENCE = 1.0


class _Queue:
    """What is parked for one client, and since when it has taken nothing."""

    __slots__ = ("answers", "since")

    def __init__(self) -> None:
        self.answers: deque[tuple[tuple[bytes, ...], bytes]] = deque()
        self.since = time.monotonic()


class Answers:
    """Sends through a ROUTER with ROUTER_MANDATORY, which says of each client whether it can take more.

    Bounded: `per_client` answers are parked for a client; more only while it reads and while less than `most` are parked for
    all clients; and in any case no more than `most_bytes` bytes. What is beyond is dropped and counted. The answers of one
    client stay in order.
    """

    def __init__(self, sock: zmq.Socket[bytes], limits: Limits) -> None:
        # The method of the C part: the public one checks a dozen things for each frame and costs three times as much.
        self._send = super(zmq.Socket, sock).send
        self.limit(limits)
        self._queues: dict[bytes, _Queue] = {}
        self._bytes = 0
        self.parked = 0
        self.answered = 0
        self.gone = 0
        self.dropped = 0

    def limit(self, limits: Limits) -> None:
        """These are the bounds from now on; what is parked stays."""
        self._per_client = limits.in_flight_per_client
        self._most = limits.in_flight
        self._most_bytes = limits.in_flight_bytes

    def send(self, answers: Iterable[Answered]) -> None:
        """Answer each; never waits, never raises for what a client does."""
        send, queues = self._send, self._queues
        sent = 0
        for (_door, client, envelope), answer in answers:
            if queues and client in queues:
                self._park(queues[client], envelope, answer)
                continue
            try:
                send(client, _MORE)
                for frame in envelope:
                    send(frame, _MORE)
                send(answer, _LAST)
                sent += 1
            except zmq.Again:
                queue = queues[client] = _Queue()
                self._park(queue, envelope, answer)
            except zmq.ZMQError as error:
                self._lost(error)
        self.answered += sent

    def _lost(self, error: zmq.ZMQError) -> None:
        if error.errno != zmq.EHOSTUNREACH:
            raise error
        self.gone += 1

    def _park(self, queue: _Queue, envelope: tuple[bytes, ...], answer: bytes) -> None:
        if self._bytes + len(answer) > self._most_bytes or not self._may_park(queue):
            self.dropped += 1
            return
        queue.answers.append((envelope, answer))
        self.parked += 1
        self._bytes += len(answer)

    def _may_park(self, queue: _Queue) -> bool:
        if len(queue.answers) < self._per_client:
            return True
        return self.parked < self._most and time.monotonic() - queue.since < PATIENCE

    def retry(self) -> None:
        """Send what is parked to the clients that take it now."""
        for client, queue in list(self._queues.items()):
            waiting = queue.answers
            before = len(waiting)
            while waiting and self._tried(client, *waiting[0]):
                self._bytes -= len(waiting.popleft()[1])
            self.parked -= before - len(waiting)
            if not waiting:
                del self._queues[client]
            elif len(waiting) < before:
                queue.since = time.monotonic()

    def _tried(self, client: bytes, envelope: tuple[bytes, ...], answer: bytes) -> bool:
        """Whether this answer need not wait any longer: it was sent, or its client has gone."""
        try:
            self._send(client, _MORE)
            for frame in envelope:
                self._send(frame, _MORE)
            self._send(answer, _LAST)
            self.answered += 1
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            self._lost(error)
        return True
