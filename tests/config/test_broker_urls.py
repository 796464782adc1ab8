"""URLs of RabbitMQ queues: what they say, and what is wrong with them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigurationError
from holdfast.model.broker import NO_LIMIT, BrokerAddress, QueueAddress, parse_broker, parse_queue

LOCAL = BrokerAddress("localhost", 5672, "guest", "guest", "/")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("amqp://localhost?queue=fee", QueueAddress(LOCAL, "fee", routing_key="fee")),
        ("amqp:///?queue=fee", QueueAddress(LOCAL, "fee", routing_key="fee")),
        (
            "amqps://me:p%40ss%2F@[::1]:5/v%2Fh?queue=q&exchange=x&exchange_type=topic&routing_key=a.*&ca=/c.pem&heartbeat=3",
            QueueAddress(
                BrokerAddress("::1", 5, "me", "p@ss/", "v/h", tls=True, ca="/c.pem", heartbeat=3), "q", "x", "topic", routing_key="a.*"
            ),
        ),
        (
            "amqp://h/?queue=q&declare=passive&queue_type=classic&single_active_consumer=true&prefetch=7&identity=header:id",
            QueueAddress(
                BrokerAddress("h", 5672, "guest", "guest", "/"),
                "q",
                routing_key="q",
                declare="passive",
                queue_type="classic",
                single_active=True,
                prefetch=7,
                identity="header:id",
            ),
        ),
    ],
)
def test_what_a_url_says(url: str, address: QueueAddress) -> None:
    assert parse_queue(url) == address


def test_the_nodes_of_a_cluster_are_asked_in_turn() -> None:
    broker = parse_queue("amqp://me:pw@a:1,[::1]:2,c/v?queue=q").broker
    assert broker.nodes == (("a", 1), ("::1", 2), ("c", 5672))
    assert broker.shown == "amqp://a:1,[::1]:2,c:5672/v"
    turns = [broker.at(turn) for turn in range(4)]
    assert [(one.host, one.port, one.user, one.nodes) for one in turns[:3]] == [(h, p, "me", ((h, p),)) for h, p in broker.nodes]
    assert turns[3] == turns[0]
    assert parse_broker("amqps://a,b").nodes == (("a", 5671), ("b", 5671))


def test_attempts_are_ours_and_the_broker_has_no_limit() -> None:
    assert parse_queue("amqp://h/?queue=q").delivery_limit == NO_LIMIT == 2**31 - 1
    assert parse_queue("amqp://h/?queue=q&delivery_limit=20").delivery_limit == 20
    assert parse_broker("amqps://h:1/v").shown == "amqps://h:1/v"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://h/", "names no queue"),
        ("amqp://h/?queue=", "queue= is empty"),
        ("amqp://h/?queue=a&queue=b", "is there twice"),
        ("amqp://h/?que=a", r"unknown parameter 'que'; did you mean 'queue'\?"),
        ("amqp://h/?queue=a&routing_key=b", "need exchange="),
        ("amqp://h/?queue=a&declare=pasive", r"did you mean 'passive'\?"),
        ("amqp://h/?queue=a&queue_type=classic&delivery_limit=3", "classic queues have no delivery_limit"),
        ("amqp://h/?queue=a&prefetch=0", "is not a number from 1 to 65535"),
        ("amqp://h/?queue=a&identity=id", "write message_id or header:NAME"),
        ("amqp://h/?queue=a&ca=/x", "ca= is for amqps://"),
        ("amqp://h/?queue=" + "a" * 250, "longer than"),
        ("amqp://h:99999/?queue=a", "is not a port"),
        ("amqp://h h/?queue=a", "blank"),
        ("amqp://h:1,/?queue=a", "a comma too many"),
        ("amqp://,h:1/?queue=a", "a comma too many"),
        ("amqp://h:1,i,h:1/?queue=a", "a host is there twice"),
        ("amqp://h:1,i!/?queue=a", "'i!' is not a host and a port"),
        ("amqp://me:a/b@h/?queue=a", "a / too many"),
        ("amqp://@h/?queue=a", "no user"),
        ("amqp://h/a/b?queue=a", "a / too many"),
        ("amqp://h/?queue=a#b", "no #fragment"),
    ],
)
def test_what_is_wrong_is_told(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_queue(url)


@given(st.text())
def test_nonsense_is_refused_and_no_password_is_told(text: str) -> None:
    assert "hunter2" not in _refusal(f"amqp://me:hunter2@{text}") or "hunter2" in text


def _refusal(url: str) -> str:
    try:
        parse_queue(url)
    except ConfigurationError as error:
        return str(error)
    return ""
