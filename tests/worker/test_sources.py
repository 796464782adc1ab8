"""What every source keeps to: the one behind an ingress, and the one in memory that stands in for it."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pytest
from nursery import PATIENCE, until

from holdfast.model.delivery import DONE, FAILED, Decoder, Delivery, encode
from holdfast.sources.base import Settlement, Source
from holdfast.sources.ingress import IngressSource, shown
from holdfast.testing.source import MemorySource, source
from holdfast.worker.credited import Credited


class Bench(Protocol):
    """A source and what is on its other side."""

    source: Source

    def put(self, body: bytes) -> None: ...
    def end(self) -> None: ...
    def settled(self, number: int) -> list[tuple[int, int, bytes]]: ...
    def retried(self) -> list[tuple[int, float, str]]: ...
    def given_back(self) -> list[int]: ...
    def close(self) -> None: ...


class MemoryBench:
    def __init__(self) -> None:
        self.memory = source()
        self.source: Source = self.memory
        self.put = self.memory.put
        self.end = self.memory.end
        self.close = self.memory.close

    def settled(self, number: int) -> list[tuple[int, int, bytes]]:
        assert self.memory.wait_settled(number)
        return [(item.seq, item.outcome, item.answer) for item in self.memory.settled.values()]

    def retried(self) -> list[tuple[int, float, str]]:
        return self.memory.retries

    def given_back(self) -> list[int]:
        return self.memory.given_back


class IngressBench:
    """Plays the ingress as simply as can be: keeps to the credit, delivers again what comes back."""

    def __init__(self) -> None:
        self.peer, theirs = socket.socketpair()
        self.woken = 0
        self.ingress = IngressSource(theirs, url="zmq+rep://127.0.0.1:1", epoch=1, wake=self.wake)
        self.source: Source = self.ingress
        self.frames: list[tuple[str, Any]] = []
        self.waiting: list[Delivery] = []
        self.held: dict[int, Delivery] = {}
        self.credit = 0
        self.last = 0
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def wake(self) -> None:
        self.woken += 1

    def serve(self) -> None:
        decoder = Decoder()
        while not self.stop.is_set():
            if not select.select([self.peer], [], [], 0.01)[0]:
                continue
            data = self.peer.recv(1 << 16)
            if not data:
                return
            for kind, what in decoder.feed(data):
                self.take(kind, what)

    def take(self, kind: str, what: Any) -> None:
        with self.lock:
            self.frames.append((kind, what))
            if kind == "credit":
                self.credit += what
            elif kind == "back":
                self.waiting[:0] = [self.held.pop(seq) for seq in what]
            elif kind == "retry":
                held = [self.held.pop(seq) for seq, _, _ in what]
                self.waiting.extend(Delivery(d.seq, d.body, d.received_ns, d.attempt + 1) for d in held)
            self.send()

    def put(self, body: bytes) -> None:
        with self.lock:
            self.last += 1
            self.waiting.append(Delivery(self.last, body, 1))
            self.send()

    def send(self) -> None:
        while self.waiting and self.credit:
            delivery = self.waiting.pop(0)
            self.held[delivery.seq] = delivery
            self.credit -= 1
            self.peer.sendall(encode(("m", [delivery])))

    def of(self, kind: str) -> list[Any]:
        with self.lock:
            return [item for name, what in self.frames if name == kind for item in what]

    def settled(self, number: int) -> list[tuple[int, int, bytes]]:
        # Bodies travel as they are; the peer's decoder is untyped, so text and bytes look alike to it.
        until(lambda: len(self.of("settled")) >= number, "settlements")
        return [tuple(item) for item in self.of("settled")]

    def retried(self) -> list[tuple[int, float, str]]:
        until(lambda: self.of("retry"), "a retry")
        return [tuple(item) for item in self.of("retry")]

    def given_back(self) -> list[int]:
        until(lambda: self.of("back"), "something given back")
        return self.of("back")

    def end(self) -> None:
        self.peer.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.stop.set()
        self.thread.join()
        self.peer.close()
        self.ingress.close()


@pytest.fixture(params=[MemoryBench, IngressBench])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = request.param()
    yield made
    made.close()


def ready(source: Source, seconds: float = PATIENCE) -> bool:
    return bool(select.select([source], [], [], seconds)[0])


def receive(source: Source, number: int) -> list[Delivery]:
    found: list[Delivery] = []
    while len(found) < number:
        assert ready(source), f"only {found}"
        found.extend(source.receive())
    return found


def test_nothing_comes_without_credit(bench: Bench) -> None:
    bench.put(b"one")
    assert not ready(bench.source, 0.05)
    assert list(bench.source.receive()) == []


def test_messages_come_in_order_and_never_beyond_the_credit(bench: Bench) -> None:
    for number in range(5):
        bench.put(b"%d" % number)
    bench.source.grant(2)
    bench.source.grant(1)
    first = receive(bench.source, 3)
    assert [d.body for d in first] == [b"0", b"1", b"2"]
    assert [d.seq for d in first] == sorted(d.seq for d in first)
    assert not ready(bench.source, 0.05)
    bench.source.grant(10)
    assert [d.body for d in receive(bench.source, 2)] == [b"3", b"4"]


def test_settlements_arrive_from_any_thread(bench: Bench) -> None:
    for _ in range(40):
        bench.put(b"x")
    bench.source.grant(40)
    seqs = [d.seq for d in receive(bench.source, 40)]

    def settle(mine: Sequence[int]) -> None:
        for seq in mine:
            bench.source.settle([Settlement(seq, FAILED if seq % 2 else DONE, b"answer")])

    threads = [threading.Thread(target=settle, args=(seqs[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settled = bench.settled(40)
    assert sorted(item[0] for item in settled) == seqs
    assert all(outcome == (FAILED if seq % 2 else DONE) and answer == b"answer" for seq, outcome, answer in settled)


def test_what_is_given_back_comes_again_as_it_was(bench: Bench) -> None:
    bench.put(b"one")
    bench.put(b"two")
    bench.source.grant(2)
    seqs = [d.seq for d in receive(bench.source, 2)]
    bench.source.give_back(seqs)
    assert bench.given_back() == seqs
    bench.source.grant(2)
    assert [(d.seq, d.attempt) for d in receive(bench.source, 2)] == [(seqs[0], 1), (seqs[1], 1)]


def test_what_is_to_be_retried_comes_again_with_one_attempt_more(bench: Bench) -> None:
    bench.put(b"one")
    bench.source.grant(1)
    (first,) = receive(bench.source, 1)
    bench.source.retry(first.seq, 0.5, "locked")
    assert bench.retried() == [(first.seq, 0.5, "locked")]
    bench.source.grant(1)
    (second,) = receive(bench.source, 1)
    assert (second.seq, second.body, second.attempt) == (first.seq, b"one", 2)


def test_the_end_is_an_eof(bench: Bench) -> None:
    bench.end()
    assert ready(bench.source)
    with pytest.raises(EOFError):
        bench.source.receive()


def test_what_the_ingress_does_not_read_is_kept_and_flushed() -> None:
    ours, theirs = socket.socketpair()
    woken = threading.Event()
    with ours:
        source = IngressSource(theirs, url="zmq+pull://x:1", epoch=1, wake=woken.set)
        big = Settlement(1, DONE, b"x" * 3_000_000)
        source.settle([big])
        source.settle([Settlement(2, DONE, b"small")])
        assert source.wants_write()
        assert woken.is_set()
        decoder, found = Decoder(), []
        while len(found) < 2:
            source.flush()
            found.extend(decoder.feed(ours.recv(1 << 20)))
        assert [[item[0] for item in what] for _, what in found] == [[1], [2]]
        assert not source.wants_write()
        assert not source.answers
        source.close()


def test_no_outcome_overtakes_one_that_waits() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        source = IngressSource(theirs, url="zmq+rep://x:1", epoch=1, wake=lambda: None)
        source.settle([Settlement(1, DONE, b"x" * 3_000_000)])
        decoder = Decoder()
        found = list(decoder.feed(ours.recv(1 << 20)))  # there is room again, in the middle of a frame
        source.settle([Settlement(2, DONE, b"small")])
        while len(found) < 2:
            source.flush()
            found.extend(decoder.feed(ours.recv(1 << 20)))
        assert [what[0][0] for _, what in found] == [1, 2]
        source.close()


def test_whatever_becomes_of_a_message_its_credit_comes_back() -> None:
    memory = source(*[b"x"] * 9)
    credited = Credited(memory, 3, 1)
    assert list(credited.receive()) == []
    credited.open()
    first, second, third = credited.receive()
    assert (credited.held, list(credited.receive())) == (3, [])
    credited.settle([Settlement(first.seq, DONE, b"")])
    credited.give_back([second.seq])
    credited.retry(third.seq, 1.0, "")
    assert len(credited.receive()) == 3
    credited.shut()
    credited.give_back([second.seq])
    assert list(credited.receive()) == []
    credited.close()


def test_outcomes_after_the_death_of_the_ingress_go_nowhere() -> None:
    ours, theirs = socket.socketpair()
    source = IngressSource(theirs, url="zmq+rep://x:1", epoch=1, wake=lambda: None)
    ours.close()
    source.settle([Settlement(1, DONE, b"")])
    source.give_back([2])
    assert not source.wants_write()
    with pytest.raises(EOFError):
        source.receive()
    source.close()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("zmq+rep://127.0.0.1:5555", "zmq+rep://127.0.0.1:5555"),
        ("amqp://me:pass@host/vhost/queue", "amqp://host/vhost/queue"),
        ("amqp://me:p@ss@host", "amqp://host"),
        ("fifo:/run/x", "fifo:/run/x"),
    ],
)
def test_no_password_in_a_name(url: str, name: str) -> None:
    assert shown(url) == name


def test_a_memory_source_shows_what_became_of_its_messages() -> None:
    made: MemorySource = source(b"one", b"two")
    made.grant(5)
    one, two = made.receive()
    made.settle([Settlement(one.seq, DONE, b"TRUE")])
    made.retry(two.seq, 1.0, "later")
    assert made.settled[one.seq].answer == b"TRUE"
    assert made.retries == [(two.seq, 1.0, "later")]
    assert not made.wait_settled(2, 0.01)
    made.close()
