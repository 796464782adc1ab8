"""The holding table: decisions by example, and its invariants under any order of events."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.model.delivery import DONE, Delivery
from holdfast.model.holding import CHUNK, CHUNK_BYTES, Holding


def holding(in_flight: int = 100, in_flight_bytes: int = 10_000, crash_limit: int = 3) -> Holding:
    return Holding(in_flight, in_flight_bytes, crash_limit, itertools.count(1))


def accept(table: Holding, count: int, body: bytes = b"body") -> list[int]:
    return [table.accept(body, 0, f"client {number}") for number in range(count)]


def worker(table: Holding, name: str, credit: int, quarantine: bool = False) -> str:
    table.attach(name, quarantine)
    table.credit(name, credit)
    return name


def dispatched(table: Holding, now: float = 0.0) -> dict[str, list[Delivery]]:
    """Everything that goes out now, by worker."""
    result: dict[str, list[Delivery]] = {}
    while sends := table.dispatch(now):
        for name, deliveries in sends:
            result.setdefault(name, []).extend(deliveries)
    return result


def seqs(deliveries: list[Delivery]) -> list[int]:
    return [delivery.seq for delivery in deliveries]


def done(*numbers: int) -> list[tuple[int, int, bytes]]:
    return [(seq, DONE, b"TRUE") for seq in numbers]


def test_messages_go_out_in_order_of_arrival_within_the_credit() -> None:
    table = holding()
    accept(table, 5)
    worker(table, "A", 3)
    assert seqs(dispatched(table)["A"]) == [1, 2, 3]
    table.credit("A", 10)
    assert seqs(dispatched(table)["A"]) == [4, 5]


def test_two_idle_workers_share() -> None:
    table = holding()
    accept(table, 9)
    worker(table, "A", 100)
    worker(table, "B", 100)
    out = dispatched(table)
    assert sorted(map(len, out.values())) == [4, 5]


def test_the_one_with_less_in_hand_gets_more() -> None:
    table = holding()
    worker(table, "A", 100)
    accept(table, 6)
    dispatched(table)
    worker(table, "B", 100)
    accept(table, 4)
    assert {name: len(deliveries) for name, deliveries in dispatched(table).items()} == {"B": 4}


def test_little_credit_leaves_the_rest_to_others() -> None:
    table = holding()
    accept(table, 10)
    worker(table, "A", 1)
    worker(table, "B", 100)
    assert {name: len(deliveries) for name, deliveries in dispatched(table).items()} == {"A": 1, "B": 9}


def test_a_chunk_is_bounded_in_messages_and_bytes() -> None:
    table = holding(in_flight=10_000, in_flight_bytes=1 << 30)
    accept(table, CHUNK + 1)
    worker(table, "A", 10_000)
    assert [len(deliveries) for _name, deliveries in table.dispatch(0.0)] == [CHUNK]
    dispatched(table)
    accept(table, 4, bytes(CHUNK_BYTES // 2))
    assert [len(deliveries) for _name, deliveries in table.dispatch(0.0)] == [2]


def test_a_clogged_worker_gets_nothing_until_it_has_read() -> None:
    table = holding()
    worker(table, "A", 10)
    table.clog("A", True)
    accept(table, 1)
    assert dispatched(table) == {}
    table.clog("A", False)
    assert list(dispatched(table)) == ["A"]


def test_a_settled_message_is_answered_once() -> None:
    table = holding()
    accept(table, 2)
    worker(table, "A", 2)
    dispatched(table)
    assert table.settled("A", done(1)) == [("client 0", b"TRUE")]
    assert table.settled("A", done(1)) == []
    assert (table.void, table.held, table.held_bytes) == (1, 1, 4)


def test_room_is_bounded_by_messages_and_by_bytes() -> None:
    table = holding(in_flight=3, in_flight_bytes=100)
    accept(table, 2)
    assert table.has_room()
    accept(table, 1)
    assert not table.has_room()
    table = holding(in_flight=3, in_flight_bytes=4)
    accept(table, 1)
    assert not table.has_room()
    worker(table, "A", 1)
    dispatched(table)
    table.settled("A", done(1))
    assert table.has_room()


def test_a_dead_workers_messages_go_first_oldest_first() -> None:
    table = holding()
    accept(table, 6)
    worker(table, "A", 2)
    dispatched(table)
    worker(table, "B", 2)
    dispatched(table)
    table.settled("A", done(1))
    assert table.worker_dead("B", set(), "killed") == 2
    assert table.worker_dead("A", set(), "killed") == 1
    worker(table, "C", 10)
    out = dispatched(table)["C"]
    assert [(delivery.seq, delivery.redelivered) for delivery in out] == [(2, True), (3, True), (4, True), (5, False), (6, False)]
    assert {delivery.attempt for delivery in out} == {1}


def test_what_a_dead_worker_says_is_void() -> None:
    table = holding()
    accept(table, 1)
    worker(table, "A", 1)
    dispatched(table)
    table.worker_dead("A", set(), "killed")
    assert table.settled("A", done(1)) == []
    table.retry("A", [(1, 0.0, "")], 0.0)
    table.back("A", [1])
    assert (table.held, table.waiting, table.void) == (1, 1, 3)
    assert table.worker_dead("A", {1}, "again") == 0


def test_a_worker_whose_socket_ended_keeps_what_it_has() -> None:
    table = holding()
    accept(table, 2)
    worker(table, "A", 1)
    dispatched(table)
    table.credit("A", 5)
    table.part("A")
    assert dispatched(table) == {}
    assert table.waiting == 1
    table.worker_dead("A", set(), "killed")
    assert table.waiting == 2


def test_what_is_given_back_goes_to_somebody_else_unchanged() -> None:
    table = holding()
    worker(table, "A", 10)
    accept(table, 3)
    dispatched(table)
    worker(table, "B", 1)
    table.back("A", [1, 2, 3])
    out = dispatched(table)
    assert seqs(out["B"]) == [1]
    assert seqs(out["A"]) == [2, 3]  # there was no other
    assert not any(delivery.redelivered or delivery.attempt != 1 for delivery in out["A"] + out["B"])


def test_a_retry_waits_until_it_is_due_and_counts_an_attempt() -> None:
    table = holding()
    accept(table, 2)
    worker(table, "A", 10)
    dispatched(table)
    table.retry("A", [(1, 5.0, "busy")], 100.0)
    assert table.next_due() == 105.0
    assert dispatched(table, 104.9) == {}
    (again,) = dispatched(table, 105.0)["A"]
    assert (again.seq, again.attempt, again.redelivered) == (1, 2, False)
    assert table.next_due() is None


@pytest.mark.parametrize("delay", [-1.0, float("nan")])
def test_a_senseless_delay_is_none(delay: float) -> None:
    table = holding()
    accept(table, 1)
    worker(table, "A", 10)
    dispatched(table)
    table.retry("A", [(1, delay, "")], 7.0)
    assert seqs(dispatched(table, 7.0)["A"]) == [1]


def test_what_is_due_after_the_stop_is_not_waited_for() -> None:
    table = holding()
    accept(table, 2)
    worker(table, "A", 10)
    dispatched(table)
    table.retry("A", [(1, 60.0, ""), (2, 5.0, "")], 0.0)
    assert (table.unfinished(30.0), table.unfinished(70.0)) == (1, 2)


def test_suspects_go_alone_to_quarantine_only() -> None:
    table = holding()
    accept(table, 3)
    worker(table, "A", 3)
    dispatched(table)
    table.worker_dead("A", {1, 2}, "SEGV")
    worker(table, "B", 10)
    assert seqs(dispatched(table)["B"]) == [3]
    assert table.suspects == 2
    worker(table, "Q", 10, quarantine=True)
    (first,) = dispatched(table)["Q"]
    assert (first.seq, first.redelivered, first.attempt) == (1, True, 1)
    assert table.settled("Q", done(1)) == [("client 0", b"TRUE")]
    assert seqs(dispatched(table)["Q"]) == [2]
    table.settled("Q", done(2))
    assert table.suspects == 0


def test_a_quarantine_worker_gets_no_ordinary_message() -> None:
    table = holding()
    accept(table, 1)
    worker(table, "Q", 10, quarantine=True)
    assert dispatched(table) == {}


def test_a_message_that_kills_alone_is_doomed_at_the_limit() -> None:
    table = holding(crash_limit=2)
    accept(table, 1)
    worker(table, "A", 1)
    dispatched(table)
    table.worker_dead("A", {1}, "SEGV")
    tried = []
    for name in ("Q1", "Q2", "Q3", "Q4"):
        worker(table, name, 1, quarantine=True)
        (delivery,) = dispatched(table)[name]
        tried.append((delivery.attempt, delivery.doom))
        table.worker_dead(name, {1}, f"killed by signal 11 in {name}")
    doom = "killed its worker 2 times while it was alone: killed by signal 11 in Q2"
    assert tried == [(1, ""), (2, ""), (3, doom), (3, doom)]


def test_a_death_before_the_message_was_begun_blames_nobody() -> None:
    table = holding(crash_limit=1)
    accept(table, 1)
    worker(table, "A", 1)
    dispatched(table)
    table.worker_dead("A", {1}, "SEGV")
    worker(table, "Q1", 1, quarantine=True)
    dispatched(table)
    table.worker_dead("Q1", set(), "killed")
    worker(table, "Q2", 1, quarantine=True)
    (delivery,) = dispatched(table)["Q2"]
    assert (delivery.attempt, delivery.doom) == (1, "")


def test_a_suspect_that_is_retried_is_an_ordinary_message_again() -> None:
    table = holding()
    accept(table, 1)
    worker(table, "A", 1)
    dispatched(table)
    table.worker_dead("A", {1}, "SEGV")
    worker(table, "Q", 5, quarantine=True)
    dispatched(table)
    table.retry("Q", [(1, 1.0, "")], 0.0)
    assert table.suspects == 0
    worker(table, "B", 1)
    assert list(dispatched(table, 1.0)) == ["B"]


def test_a_doomed_message_is_retried_in_quarantine() -> None:
    table = holding(crash_limit=1)
    accept(table, 1)
    worker(table, "A", 1)
    dispatched(table)
    table.worker_dead("A", {1}, "SEGV")
    worker(table, "Q1", 1, quarantine=True)
    dispatched(table)
    table.worker_dead("Q1", {1}, "SEGV")
    worker(table, "Q2", 5, quarantine=True)
    worker(table, "B", 5)
    assert list(dispatched(table)) == ["Q2"]
    table.retry("Q2", [(1, 1.0, "store away")], 0.0)
    assert list(dispatched(table, 2.0)) == ["Q2"]


def test_a_worker_cannot_be_attached_twice() -> None:
    table = holding()
    table.attach("A", False)
    with pytest.raises(ValueError, match="attached already"):
        table.attach("A", False)


class Life(RuleBasedStateMachine):
    """Any order of events, against a plain account of what every message has gone through."""

    IN_FLIGHT = 12
    BYTES = 60

    def __init__(self) -> None:
        super().__init__()
        self.table = Holding(self.IN_FLIGHT, self.BYTES, 2, itertools.count(1))
        self.now = 0.0
        self.accepted: dict[int, bytes] = {}
        self.answered: dict[int, int] = {}
        self.in_hand: dict[str, set[int]] = {}
        self.quarantine: set[str] = set()
        self.names = itertools.count()

    @rule(size=st.integers(0, 20), count=st.integers(1, 5))
    def arrive(self, size: int, count: int) -> None:
        for _ in range(count):
            if self.table.has_room():
                seq = self.table.accept(bytes(size), 0, None)
                assert seq not in self.accepted
                self.accepted[seq] = bytes(size)

    @rule(credit=st.integers(0, 6), quarantine=st.booleans())
    def attach(self, credit: int, quarantine: bool) -> None:
        name = f"W{next(self.names)}"
        worker(self.table, name, credit, quarantine)
        self.in_hand[name] = set()
        if quarantine:
            self.quarantine.add(name)

    @rule(seconds=st.floats(0, 3))
    def dispatch(self, seconds: float) -> None:
        self.now += seconds
        while sends := self.table.dispatch(self.now):
            for name, deliveries in sends:
                for delivery in deliveries:
                    self.leased(name, delivery)

    def leased(self, name: str, delivery: Delivery) -> None:
        assert not any(delivery.seq in hand for hand in self.in_hand.values())
        assert delivery.seq not in self.answered
        assert delivery.body == self.accepted[delivery.seq]
        self.in_hand[name].add(delivery.seq)
        if name in self.quarantine:
            assert len(self.in_hand[name]) == 1
        assert (name in self.quarantine) or not delivery.doom

    def pick(self, data: Any) -> tuple[str, list[int]]:
        name = data.draw(st.sampled_from(sorted(self.in_hand)))
        hand = sorted(self.in_hand[name])
        chosen = data.draw(st.lists(st.sampled_from(hand), unique=True)) if hand else []
        return name, chosen

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def settle(self, data: Any) -> None:
        name, chosen = self.pick(data)
        assert len(self.table.settled(name, done(*chosen))) == len(chosen)
        for seq in chosen:
            self.in_hand[name].discard(seq)
            self.answered[seq] = self.answered.get(seq, 0) + 1

    @precondition(lambda self: self.accepted)
    @rule(data=st.data(), name=st.sampled_from(["W0", "W1", "W2", "nobody"]))
    def settle_what_is_not_in_hand(self, data: Any, name: str) -> None:
        seq = data.draw(st.sampled_from([*self.accepted, 10**6]))
        if seq in self.in_hand.get(name, ()):
            return
        void = self.table.void
        assert self.table.settled(name, done(seq)) == []
        assert self.table.void == void + 1

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), delay=st.floats(0, 5))
    def retry(self, data: Any, delay: float) -> None:
        name, chosen = self.pick(data)
        self.table.retry(name, [(seq, delay, "") for seq in chosen], self.now)
        self.in_hand[name].difference_update(chosen)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        name, chosen = self.pick(data)
        self.table.back(name, chosen)
        self.in_hand[name].difference_update(chosen)

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data())
    def die(self, data: Any) -> None:
        name, begun = self.pick(data)
        assert self.table.worker_dead(name, set(begun), "killed") == len(self.in_hand.pop(name))

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), clogged=st.booleans(), ended=st.booleans())
    def disturb(self, data: Any, clogged: bool, ended: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.in_hand)))
        self.table.clog(name, clogged)
        if ended:
            self.table.part(name)

    @invariant()
    def every_message_is_in_exactly_one_place(self) -> None:
        table = self.table
        places = [delivery.seq for delivery in table._waiting]
        places += [seq for seq, _delivery in table._returned + table._suspects]
        places += [seq for _due, seq, _delivery in table._delayed]
        for lease in table._leases.values():
            assert set(lease.in_hand) == self.in_hand[lease.worker]
            places += lease.in_hand
        assert len(places) == len(set(places))
        assert set(places) == set(self.accepted) - set(self.answered)
        assert all(times == 1 for times in self.answered.values())

    @invariant()
    def the_account_is_right_and_bounded(self) -> None:
        held = set(self.accepted) - set(self.answered)
        assert self.table.held == len(held) <= self.IN_FLIGHT
        assert self.table.held_bytes == sum(len(self.accepted[seq]) for seq in held) < self.BYTES + 20
        assert self.table.waiting == len(held) - sum(map(len, self.in_hand.values()))

    def teardown(self) -> None:
        """Whatever has happened: with a good worker and a good quarantine worker everything ends."""
        worker(self.table, "last", 10_000)
        worker(self.table, "last quarantine", 10_000, quarantine=True)
        for name in list(self.in_hand):
            self.table.worker_dead(name, set(), "killed")
        for _ in range(self.IN_FLIGHT + 1):
            for name, deliveries in self.table.dispatch(self.now + 1000):
                self.table.settled(name, done(*seqs(deliveries)))
        assert self.table.held == 0
        assert self.table.held_bytes == 0
        assert self.table.suspects == 0


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
