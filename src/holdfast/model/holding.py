"""The holding table of one job: every message the ingress has taken in, where it is, and who gets it next. Pure.

A message is in exactly one place, told by the container that holds its `Delivery`:

    waiting    never given to anybody, in order of arrival
    returned   given back, redelivered or due again: goes out before anything that waits, oldest first
    delayed    a retry with a due time
    suspect    its worker died while handling it: goes, alone, to a quarantine worker only
    in hand    leased to one worker, until that worker settles it, retries it, gives it back or dies

The loop calls in here for each message, so the state is kept in plain containers and not in one object a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from heapq import heappop, heappush
from typing import Any

from msgspec.structs import replace

from holdfast.model.delivery import Delivery

#: The most that one worker is given at a time: what a frame holds, and so what one worker's out-buffer holds.
CHUNK = 512
CHUNK_BYTES = 256 << 10

Route = Any  # how the transport finds the client again; never looked into here


class Lease:
    """What one worker has in hand, and how much more it has asked for."""

    __slots__ = ("clogged", "credit", "gave_back", "gone", "in_hand", "quarantine", "worker")

    def __init__(self, worker: str, quarantine: bool) -> None:
        self.worker = worker
        self.quarantine = quarantine
        self.credit = 0
        self.in_hand: dict[int, Delivery] = {}
        self.clogged = False  # it has not read all that it was sent
        self.gone = False  # its socket has ended; its messages wait for the word that it is dead
        self.gave_back = False  # it gave messages back and has not asked for more since: it is asked last

    def takes(self) -> bool:
        """Whether it may be sent a message now."""
        if self.quarantine and self.in_hand:
            return False
        return self.credit > 0 and not self.clogged and not self.gone


class Holding:
    """All messages of one job that are taken in and not yet settled.

    Bounded: `has_room` is False at `in_flight` messages, and at `in_flight_bytes` bytes of bodies (which the last message
    may exceed). Whatever a worker says of a message that it does not have in hand is void, and counted in `void`.
    """

    def __init__(self, in_flight: int, in_flight_bytes: int, crash_limit: int, numbers: Iterator[int]) -> None:
        self.limit(in_flight, in_flight_bytes, crash_limit)
        self._numbers = numbers
        self._routes: dict[int, Route] = {}
        self._waiting: deque[Delivery] = deque()
        self._returned: list[tuple[int, Delivery]] = []
        self._delayed: list[tuple[float, int, Delivery]] = []
        self._suspects: list[tuple[int, Delivery]] = []
        self._deaths: dict[int, int] = {}
        self._leases: dict[str, Lease] = {}
        self.held_bytes = 0
        self.received = 0
        self.redelivered = 0
        self.void = 0

    def limit(self, in_flight: int, in_flight_bytes: int, crash_limit: int) -> None:
        """These are the bounds from now on. What is held beyond them stays; nothing is accepted until it is less."""
        self._in_flight = in_flight
        self._in_flight_bytes = in_flight_bytes
        self._crash_limit = crash_limit

    # Facts

    @property
    def held(self) -> int:
        """Messages taken in and not yet settled."""
        return len(self._routes)

    @property
    def waiting(self) -> int:
        """Of these, not with any worker."""
        return len(self._routes) - sum([len(lease.in_hand) for lease in self._leases.values()])

    @property
    def suspects(self) -> int:
        """Messages that wait for quarantine or are in it just now."""
        return len(self._suspects) + sum([len(lease.in_hand) for lease in self._leases.values() if lease.quarantine])

    def has_room(self) -> bool:
        """Whether one more message may be accepted."""
        return len(self._routes) < self._in_flight and self.held_bytes < self._in_flight_bytes

    def unfinished(self, until: float) -> int:
        """Messages that are held and not put off beyond this time."""
        return len(self._routes) - sum(1 for due, _seq, _delivery in self._delayed if due > until)

    def next_due(self) -> float | None:
        """When the next delayed message is due; None when none is delayed."""
        return self._delayed[0][0] if self._delayed else None

    # Messages in

    def accept(self, body: bytes, received_ns: int, route: Route, headers: dict[str, Any] | None = None) -> int:
        """Take one message in; returns its sequence number. To be asked before: `has_room`."""
        seq = next(self._numbers)
        self._routes[seq] = route
        self._waiting.append(Delivery(seq, body, received_ns, 1, False, "", headers))
        self.held_bytes += len(body)
        self.received += 1
        return seq

    # Workers

    def attach(self, worker: str, quarantine: bool) -> None:
        """A worker is there; it gets nothing before it has granted credit. ValueError when it is there already."""
        if worker in self._leases:
            raise ValueError(f"worker {worker} is attached already")
        self._leases[worker] = Lease(worker, quarantine)

    def knows(self, worker: str) -> bool:
        """Whether this worker is attached and not known to be dead."""
        return worker in self._leases

    def credit(self, worker: str, messages: int) -> None:
        """The worker takes so many messages more."""
        lease = self._leases.get(worker)
        if lease is not None:
            lease.credit += messages
            lease.gave_back = False

    def clog(self, worker: str, clogged: bool) -> None:
        """The worker has, or has no more, bytes before it that it has not read."""
        lease = self._leases.get(worker)
        if lease is not None:
            lease.clogged = clogged

    def part(self, worker: str) -> None:
        """The worker's socket has ended: it gets nothing more, but keeps what it has until it is known to be dead."""
        lease = self._leases.get(worker)
        if lease is not None:
            lease.gone = True

    def worker_dead(self, worker: str, suspects: AbstractSet[int], reason: str) -> int:
        """Revoke the lease. What the worker had in hand goes to others; `suspects`, which it had begun, to quarantine.

        A message counts a death only if it was alone, that is: begun in a quarantine worker. Returns how many are redelivered.
        """
        lease = self._leases.pop(worker, None)
        if lease is None:
            return 0
        for seq, delivery in lease.in_hand.items():
            again = replace(delivery, redelivered=True)
            if lease.quarantine:
                heappush(self._suspects, (seq, self._blame(again, reason) if seq in suspects else again))
            elif seq in suspects:
                heappush(self._suspects, (seq, again))
            else:
                heappush(self._returned, (seq, again))
        self.redelivered += len(lease.in_hand)
        return len(lease.in_hand)

    def _blame(self, delivery: Delivery, reason: str) -> Delivery:
        """Count a death that happened while this message was alone; at the limit it is doomed."""
        if delivery.doom:
            return delivery
        deaths = self._deaths[delivery.seq] = self._deaths.get(delivery.seq, 0) + 1
        doom = f"killed its worker {deaths} times while it was alone: {reason}" if deaths >= self._crash_limit else ""
        return replace(delivery, attempt=delivery.attempt + 1, doom=doom)

    # Outcomes

    def settled(self, worker: str, outcomes: Iterable[Sequence[Any]]) -> list[tuple[Route, bytes]]:
        """Forget messages for good; returns where each answer goes. `outcomes` are (seq, outcome, answer)."""
        in_hand = self._hand(worker)
        routes = self._routes
        answers = []
        for seq, _outcome, answer in outcomes:
            delivery = in_hand.pop(seq, None)
            if delivery is None:
                self.void += 1
                continue
            self.held_bytes -= len(delivery.body)
            answers.append((routes.pop(seq), answer))
            if self._deaths:
                self._deaths.pop(seq, None)
        return answers

    def retry(self, worker: str, tries: Iterable[Sequence[Any]], now: float) -> None:
        """Deliver messages again after a delay, with attempt + 1. `tries` are (seq, delay in seconds, reason).

        A suspect that comes back from quarantine this way did not kill its worker: it is an ordinary message again.
        """
        for seq, delay, _reason in tries:
            delivery = self._taken(worker, seq)
            if delivery is not None:
                due = now + delay if delay > 0 else now
                heappush(self._delayed, (due, seq, replace(delivery, attempt=delivery.attempt + 1)))

    def back(self, worker: str, seqs: Iterable[int]) -> None:
        """Take back messages that were never begun: they go to somebody else at once, unchanged."""
        lease = self._leases.get(worker)
        for seq in seqs:
            delivery = self._taken(worker, seq)
            if delivery is None or lease is None:
                continue
            lease.gave_back = True
            heappush(self._suspects if lease.quarantine else self._returned, (seq, delivery))

    def _hand(self, worker: str) -> dict[int, Delivery]:
        lease = self._leases.get(worker)
        return lease.in_hand if lease is not None else {}

    def _taken(self, worker: str, seq: int) -> Delivery | None:
        delivery = self._hand(worker).pop(seq, None)
        if delivery is None:
            self.void += 1
        return delivery

    # Messages out

    def dispatch(self, now: float) -> list[tuple[str, list[Delivery]]]:
        """Lease what can go out now; returns what to send to which worker. Call again until it returns nothing.

        The worker with the fewest messages in hand comes first; shares are such that all have about the same in hand after it.
        """
        self._wake(now)
        sends = self._dispatch_suspects()
        left = len(self._returned) + len(self._waiting)
        if not left:
            return sends
        ready = self._ready()
        level = -(-(left + sum([len(lease.in_hand) for lease in ready])) // len(ready)) if ready else 0
        for lease in ready:
            most = min(lease.credit, CHUNK, level - len(lease.in_hand))
            chunk = self._take(lease, most)
            if not chunk:
                break
            sends.append((lease.worker, chunk))
        return sends

    def _wake(self, now: float) -> None:
        """Delayed messages that are due go to the head; a doomed one back to quarantine."""
        while self._delayed and self._delayed[0][0] <= now:
            _due, seq, delivery = heappop(self._delayed)
            heappush(self._suspects if delivery.doom else self._returned, (seq, delivery))

    def _dispatch_suspects(self) -> list[tuple[str, list[Delivery]]]:
        sends = []
        for lease in self._leases.values():
            if self._suspects and lease.quarantine and lease.takes():
                seq, delivery = heappop(self._suspects)
                lease.in_hand[seq] = delivery
                lease.credit -= 1
                sends.append((lease.worker, [delivery]))
        return sends

    def _ready(self) -> list[Lease]:
        """Ordinary workers that take messages, fewest in hand first; those that gave some back only when there is no other."""
        ready = [lease for lease in self._leases.values() if not lease.quarantine and lease.takes()]
        ready.sort(key=_burden)
        return [lease for lease in ready if not lease.gave_back] or ready

    def _take(self, lease: Lease, most: int) -> list[Delivery]:
        returned, waiting, in_hand = self._returned, self._waiting, lease.in_hand
        chunk: list[Delivery] = []
        size = 0
        while len(chunk) < most and size < CHUNK_BYTES:
            if returned:
                delivery = heappop(returned)[1]
            elif waiting:
                delivery = waiting.popleft()
            else:
                break
            in_hand[delivery.seq] = delivery
            size += len(delivery.body)
            chunk.append(delivery)
        lease.credit -= len(chunk)
        return chunk


def _burden(lease: Lease) -> tuple[int, int]:
    return len(lease.in_hand), -lease.credit
