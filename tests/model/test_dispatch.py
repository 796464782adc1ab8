"""The order in which an outbox is emptied, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigurationError
from holdfast.model.broker import parse_broker
from holdfast.model.dispatch import FIRST_PAUSE, LONGEST_PAUSE, MOST_LANES, Blame, Blocked, Pauses, Round, chosen
from holdfast.model.targets import Targets, is_queue


@dataclass(frozen=True)
class Message:
    id: int
    target: str = "a"
    key: str = ""
    size: int = 1


@given(st.lists(st.sampled_from(["", "x", "y"])), st.data())
def test_a_key_is_in_order_and_stops_at_its_first_failure(keys: list[str], data: st.DataObject) -> None:
    messages = [Message(number, "a", key) for number, key in enumerate(keys)]
    outgoing = Round(messages)
    on_their_way, ended, failed = list(outgoing.start()), [], []
    while on_their_way:
        lanes = [one.key for one in on_their_way if one.key]
        assert len(lanes) == len(set(lanes)), "one at a time of each key"
        assert outgoing.open == len(on_their_way)
        one = on_their_way.pop(data.draw(st.integers(0, len(on_their_way) - 1)))
        taken = data.draw(st.booleans())
        (ended if taken else failed).append(one)
        following = outgoing.ended(one, taken=taken)
        on_their_way += [following] if following is not None else []
    assert outgoing.open == 0
    assert outgoing.collect() == [one.id for one in ended]
    assert outgoing.collect() == []
    for lane in {one.key for one in messages if one.key}:
        all_of_it = [one.id for one in messages if one.key == lane]
        done = [one.id for one in ended if one.key == lane]
        stopped = any(one.key == lane for one in failed)
        assert done == all_of_it[: len(done)]
        assert stopped or done == all_of_it
    assert {one.id for one in messages if not one.key} == {one.id for one in [*ended, *failed] if not one.key}


def test_nothing_follows_in_a_round_that_closes() -> None:
    outgoing = Round([Message(1, key="x"), Message(2, key="x")])
    outgoing.closing = True
    assert outgoing.ended(outgoing.start()[0], taken=True) is None
    assert (outgoing.open, outgoing.collect()) == (0, [1])


def test_what_fails_waits_longer_each_time_and_alone() -> None:
    pauses, now, waits, message = Pauses(), 100.0, [], Message(1, key="x")
    for _ in range(9):
        waits.append(pauses.failed(message, Blame.ROUTE, now) or 0.0)
        assert pauses.failed(message, Blame.ROUTE, now) is None, "one pause for all that fails together"
        assert pauses.blocked(now) == Blocked(keys={"a": ["x"]})
        assert pauses.next_try(now) == now + waits[-1]
        now += waits[-1]
        assert pauses.blocked(now) == Blocked()
    assert waits[0] == FIRST_PAUSE
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_PAUSE
    pauses.taken(message, now)
    assert pauses.failed(message, Blame.ROUTE, now) == FIRST_PAUSE


@pytest.mark.parametrize(
    ("blame", "whole", "blocked"),
    [
        (Blame.ROUTE, False, Blocked(ids=(1,))),
        (Blame.ROUTE, True, Blocked(("a",))),
        (Blame.MESSAGE, True, Blocked(ids=(1,))),
        (Blame.UNKNOWN, False, Blocked(("a",))),
        (Blame.TARGET, False, Blocked(("a",))),
        (Blame.AWAY, False, Blocked(("a",))),
    ],
)
def test_who_is_not_to_blame_does_not_wait(blame: Blame, whole: bool, blocked: Blocked) -> None:
    pauses = Pauses()
    pauses.failed(Message(1), blame, 0.0, whole=whole)
    assert pauses.blocked(0.0) == blocked
    assert pauses.doubted("a") == bool(blocked.targets)


def test_one_message_finds_out_whether_a_target_takes_something_again() -> None:
    pauses = Pauses()
    heads = [Message(1), Message(2, "b"), Message(3), Message(4, "b")]
    pauses.failed(heads[0], Blame.AWAY, 0.0)
    assert chosen(heads, pauses, 99) == {"a": [1], "b": [2, 4]}
    pauses.taken(heads[2], FIRST_PAUSE / 2)
    assert pauses.doubted("a"), "that one had left before"
    pauses.taken(heads[0], FIRST_PAUSE)
    assert chosen(heads, pauses, 99) == {"a": [1, 3], "b": [2, 4]}


def test_as_much_is_fetched_as_fits_and_one_at_least() -> None:
    heads = [Message(1, size=8), Message(2, size=1), Message(3, size=1), Message(4, size=1)]
    assert chosen(heads, Pauses(), 10) == {"a": [1, 2, 3]}
    assert chosen(heads, Pauses(), 5) == {"a": [1]}


def test_beyond_a_limit_a_target_waits_as_a_whole_and_what_is_gone_is_forgotten() -> None:
    pauses = Pauses()
    for number in range(MOST_LANES):
        pauses.failed(Message(number), Blame.ROUTE, 0.0)
    assert pauses.blocked(0.0).targets == ()
    pauses.failed(Message(MOST_LANES), Blame.ROUTE, 0.0)
    assert pauses.blocked(0.0).targets == ("a",)
    assert pauses.blocked(2 * LONGEST_PAUSE) == Blocked()
    pauses.failed(Message(MOST_LANES + 1), Blame.ROUTE, 2 * LONGEST_PAUSE)
    assert pauses.blocked(2 * LONGEST_PAUSE) == Blocked(ids=(MOST_LANES + 1,))


def test_a_target_is_named_without_secrets_and_looked_up_again() -> None:
    broker = parse_broker("amqp://me:secret@mq:5673/v%2F1")
    targets = Targets([broker])
    target = targets.target("amqp://mq:5673/v%2F1?exchange=fees%20a")
    assert (target.exchange, target.queue, target.url) == ("fees a", "", "amqp://mq:5673/v%2F1?exchange=fees%20a")
    assert target.routing_key("new") == "new"
    assert targets.broker(target.url) == broker
    assert targets.target("amqp://mq:5673/v%2F1?queue=q").routing_key("") == "q"
    assert [is_queue(targets.target(f"amqp://mq:5673/v%2F1?{where}=queue").url) for where in ("queue", "exchange")] == [True, False]


def test_any_node_of_a_cluster_stands_for_all_of_it() -> None:
    broker = parse_broker("amqp://me:secret@a,b,c/")
    targets = Targets([broker])
    for hosts, written in (("a", "a:5672"), ("c", "c:5672"), ("b,a", "b:5672,a:5672"), ("new,c", "new:5672,c:5672")):
        target = targets.target(f"amqp://{hosts}/?queue=q")
        assert target.url == f"amqp://{written}/%2F?queue=q"
        assert targets.broker(target.url) == broker


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://me:secret@mq:5673/v%2F1?queue=q", "would lie in the database"),
        ("amqp://mq:5673/v%2F1", "names an exchange or a queue"),
        ("amqp://mq:5673/v%2F1?queue=q&exchange=x", "names an exchange or a queue"),
        ("amqp://mq:5673/other?queue=q", "nothing says who we are at the broker amqp://mq:5673/other"),
        ("amqps://mq:5673/v%2F1?queue=q", "nothing says who we are"),
        ("amqp://mq:5673/v%2F1?queue=q&prefetch=1", "unknown parameter 'prefetch'"),
        ("fees", "not the URL of a broker"),
    ],
)
def test_what_cannot_be_sent_to_is_told(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        Targets([parse_broker("amqp://me:secret@mq:5673/v%2F1")]).target(url)
    assert "secret@" not in str(caught.value)
