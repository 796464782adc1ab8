"""The order in which an outbox is emptied, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigurationError
from holdfast.model.broker import parse_broker
from holdfast.model.dispatch import FIRST_PAUSE, LONGEST_PAUSE, Pauses, Round
from holdfast.model.targets import Targets


@dataclass(frozen=True)
class Message:
    id: int
    target: str
    key: str


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "y"]))), st.data())
def test_a_key_is_in_order_and_stops_at_its_first_failure(places: list[tuple[str, str]], data: st.DataObject) -> None:
    messages = [Message(number, target, key) for number, (target, key) in enumerate(places)]
    outgoing = Round(messages)
    on_their_way, ended, failed = list(outgoing.start()), [], []
    while on_their_way:
        lanes = [(one.target, one.key) for one in on_their_way if one.key]
        assert len(lanes) == len(set(lanes)), "one at a time of each key"
        assert outgoing.open == len(on_their_way)
        one = on_their_way.pop(data.draw(st.integers(0, len(on_their_way) - 1)))
        taken = data.draw(st.booleans())
        (ended if taken else failed).append(one)
        following = outgoing.ended(one, taken=taken)
        on_their_way += [following] if following is not None else []
    assert outgoing.open == 0
    assert outgoing.taken == [one.id for one in ended]
    for lane in {(one.target, one.key) for one in messages if one.key}:
        all_of_it = [one.id for one in messages if (one.target, one.key) == lane]
        done = [one.id for one in ended if (one.target, one.key) == lane]
        stopped = any((one.target, one.key) == lane for one in failed)
        assert done == all_of_it[: len(done)]
        assert stopped or done == all_of_it
    assert {one.id for one in messages if not one.key} == {one.id for one in [*ended, *failed] if not one.key}


def test_a_lane_that_fails_waits_longer_each_time_and_alone() -> None:
    pauses, now, waits = Pauses(), 100.0, []
    for _ in range(9):
        waits.append(pauses.failed(("a", "x"), now))
        assert pauses.blocked(now) == [("a", "x")]
        assert pauses.next_try(now) == now + waits[-1]
        now += waits[-1]
        assert pauses.blocked(now) == []
    assert waits[0] == FIRST_PAUSE
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_PAUSE
    pauses.taken(("a", "x"))
    assert pauses.failed(("a", "x"), now) == FIRST_PAUSE


def test_a_target_is_named_without_secrets_and_looked_up_again() -> None:
    broker = parse_broker("amqp://me:secret@mq:5673/v%2F1")
    targets = Targets([broker])
    target = targets.target("amqp://mq:5673/v%2F1?exchange=fees%20a")
    assert (target.exchange, target.queue, target.url) == ("fees a", "", "amqp://mq:5673/v%2F1?exchange=fees%20a")
    assert target.routing_key("new") == "new"
    assert targets.broker(target.url) == broker
    assert targets.target("amqp://mq:5673/v%2F1?queue=q").routing_key("") == "q"


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
