"""Answers on their way to clients: sent at once, or parked for a client that reads slowly, or counted as lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import zmq

Envelope = tuple[bytes, ...]
"""The frames before the body: the client's identity, and everything up to the first empty frame."""

_MORE = zmq.NOBLOCK.value | zmq.SNDMORE.value
_LAST = zmq.NOBLOCK.value


class Answers:
    """Sends through a ROUTER with ROUTER_MANDATORY, which says of each client whether it can take more.

    Bounded: at most `per_client` answers are parked for one client, and `most_bytes` bytes for all; what is beyond is dropped
    and counted. The answers of one client stay in order.
    """

    def __init__(self, sock: zmq.Socket[bytes], per_client: int, most_bytes: int) -> None:
        # The method of the C part: the public one checks a dozen things for each frame and costs three times as much.
        self._send = super(zmq.Socket, sock).send
        self._per_client = per_client
        self._most_bytes = most_bytes
        self._parked: dict[bytes, deque[tuple[Envelope, bytes]]] = {}
        self._parked_bytes = 0
        self.parked = 0
        self.answered = 0
        self.gone = 0
        self.dropped = 0

    def send(self, answers: Iterable[tuple[Envelope, bytes]]) -> None:
        """Answer each; never waits, never raises for what a client does."""
        send = self._send
        parked = self._parked
        sent = 0
        for envelope, answer in answers:
            if parked and envelope[0] in parked:
                self._park(envelope, answer)
                continue
            try:
                for frame in envelope:
                    send(frame, _MORE)
                send(answer, _LAST)
                sent += 1
            except zmq.Again:
                self._park(envelope, answer)
            except zmq.ZMQError as error:
                self._lost(error)
        self.answered += sent

    def _lost(self, error: zmq.ZMQError) -> None:
        if error.errno != zmq.EHOSTUNREACH:
            raise error
        self.gone += 1

    def _park(self, envelope: Envelope, answer: bytes) -> None:
        queue = self._parked.setdefault(envelope[0], deque())
        if len(queue) >= self._per_client or self._parked_bytes + len(answer) > self._most_bytes:
            self.dropped += 1
            if not queue:
                del self._parked[envelope[0]]
            return
        queue.append((envelope, answer))
        self.parked += 1
        self._parked_bytes += len(answer)

    def retry(self) -> None:
        """Send what is parked to the clients that take it now."""
        for client, queue in list(self._parked.items()):
            while queue and self._tried(*queue[0]):
                self.parked -= 1
                self._parked_bytes -= len(queue.popleft()[1])
            if not queue:
                del self._parked[client]

    def _tried(self, envelope: Envelope, answer: bytes) -> bool:
        """Whether this answer need not wait any longer: it was sent, or its client has gone."""
        try:
            for frame in envelope:
                self._send(frame, _MORE)
            self._send(answer, _LAST)
            self.answered += 1
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            self._lost(error)
        return True
