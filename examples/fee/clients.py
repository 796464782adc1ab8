"""Clients of the fee daemon: a lock-step REQ client and a pipelining DEALER, which both send again when no answer comes."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, MutableSequence
from dataclasses import dataclass, field

import zmq

ANSWER_TIMEOUT = 10.0
GIVE_UP = 120.0
IN_FLIGHT = 1000

#: How many answers each client has, for the live progress; set in each client's process by `share`.
answers: MutableSequence[int] = [0] * 64


def share(counters: MutableSequence[int]) -> None:
    """Count answers in memory that the starter of the clients reads."""
    global answers
    answers = counters


@dataclass
class Outcome:
    """What one client saw. Latencies are in seconds, from the first sending of a ticket."""

    confirmed: list[int] = field(default_factory=list)
    refused: dict[int, bytes] = field(default_factory=dict)
    unanswered: list[int] = field(default_factory=list)
    latencies: array[float] = field(default_factory=lambda: array("d"))
    resent: int = 0

    def take(self, ticket: int, answer: bytes, latency: float) -> None:
        """Note the first answer to a ticket."""
        if answer == b"TRUE":
            self.confirmed.append(ticket)
        else:
            self.refused[ticket] = answer
        self.latencies.append(latency)


def body(ticket: int) -> bytes:
    return f"{ticket},login{ticket % 100},{ticket % 1000 / 100}".encode()


def lock_step(endpoint: str, tickets: Iterable[int], number: int) -> Outcome:
    """A REQ client: sends a ticket, waits for its answer, sends the next."""
    outcome = Outcome()
    context = zmq.Context()
    socket = _connected(context, zmq.REQ, endpoint)
    deadline = time.monotonic() + GIVE_UP
    for ticket in tickets:
        began = time.monotonic()
        socket.send(body(ticket))
        while not socket.poll(int(ANSWER_TIMEOUT * 1000)) and time.monotonic() < deadline:
            socket.close(0)  # a REQ socket whose answer is lost is of no more use
            socket = _connected(context, zmq.REQ, endpoint)
            socket.send(body(ticket))
            outcome.resent += 1
        if not socket.poll(0):
            outcome.unanswered.append(ticket)
            socket.close(0)
            socket = _connected(context, zmq.REQ, endpoint)
            continue
        outcome.take(ticket, socket.recv(), time.monotonic() - began)
        answers[number] += 1
    context.destroy(0)
    return outcome


def pipelining(endpoint: str, tickets: Iterable[int], number: int) -> Outcome:
    """A DEALER: up to IN_FLIGHT tickets wait for their answers at a time; the frame before the empty one tells which is which."""
    outcome = Outcome()
    context = zmq.Context()
    socket = _connected(context, zmq.DEALER, endpoint)
    waiting: dict[int, float] = {}  # ticket -> when it was first sent
    rest = iter(tickets)
    deadline = time.monotonic() + GIVE_UP
    more = True
    while (waiting or more) and time.monotonic() < deadline:
        while more and len(waiting) < IN_FLIGHT:
            ticket = next(rest, None)
            more = ticket is not None
            if ticket is not None:
                waiting[ticket] = time.monotonic()
                socket.send_multipart(_request(ticket))
        if socket.poll(int(ANSWER_TIMEOUT * 1000)):
            answers[number] += _receive(socket, waiting, outcome)
        else:
            for ticket in waiting:
                socket.send_multipart(_request(ticket))
            outcome.resent += len(waiting)
    outcome.unanswered.extend(waiting)
    context.destroy(0)
    return outcome


def _connected(context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    socket.connect(endpoint)
    return socket


def _request(ticket: int) -> list[bytes]:
    return [str(ticket).encode(), b"", body(ticket)]


def _receive(socket: zmq.Socket[bytes], waiting: dict[int, float], outcome: Outcome) -> int:
    """Take every answer that has come."""
    taken = 0
    while socket.poll(0):
        name, _, answer = socket.recv_multipart()
        began = waiting.pop(int(name), None)
        if began is not None:  # a ticket that was sent twice is answered twice
            outcome.take(int(name), answer, time.monotonic() - began)
            taken += 1
    return taken
