"""The outbox: what is published leaves after the commit, once it is confirmed, in order per key, whatever dies."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pika
import pytest
from broker_kit import Broker
from outbox_kit import Stage

from holdfast.errors import HoldfastError
from holdfast.stores.outbox import check_headers, encoded
from holdfast.testing import eventually

Make = Callable[..., Stage]


@pytest.mark.parametrize("kind", ["sqlite", "mariadb", "postgresql"])
def test_what_is_published_leaves_after_the_commit_and_only_then(teller: Make, kind: str) -> None:
    stage = teller(kind)
    stage.daemon.start()
    queue = stage.queue()
    with stage.client() as ask:
        for number in range(20):
            assert ask(f"queue={queue} - m{number}") == b"TRUE"
            assert ask(f"queue={queue} - fail{number}") == b"FALSE"
    stage.wait(queue, 20)
    eventually(lambda: stage.rows() == 0, "the outbox is empty")
    assert sorted(stage.taken(queue)) == sorted((f"m{number}", f"m{number}") for number in range(20))
    eventually(lambda: stage.outbox == {"messages": 0, "age_s": 0.0}, "and that is told")


def test_one_key_keeps_its_order_and_a_broken_one_blocks_only_itself(teller: Make) -> None:
    stage = teller()
    stage.daemon.start()
    queue, exchange = stage.queue(), "fees.test"
    with stage.broker.channel() as channel:
        channel.exchange_declare(exchange, exchange_type="direct")
        channel.queue_bind(queue, exchange, "good")
        with stage.client() as ask:
            for number in range(60):
                assert ask(f"exchange={exchange} {'lost' if number == 3 else 'good'} {number}") == b"TRUE"
        stage.wait(queue, 59)
        assert [body for _id, body in stage.taken(queue)] == [str(number) for number in range(60) if number != 3]
        eventually(
            lambda: stage.outbox["messages"] == 1 and "NO_ROUTE" in stage.outbox.get("trouble", ""), "it is told what waits, and why"
        )
        assert "outbox: 1 wait" in stage.daemon.run("status").stdout
        channel.queue_bind(queue, exchange, "lost")
        stage.wait(queue, 1)
        eventually(lambda: stage.outbox["messages"] == 0, "nothing waits any more")
        channel.exchange_delete(exchange)


def test_a_broker_that_is_away_is_waited_for(teller: Make) -> None:
    stage = teller(toml="[jobs.Teller]\nprocesses = 2\n")
    stage.daemon.start()
    queue = stage.queue()
    stage.proxy.cut(refuse=True)
    with stage.client() as ask:
        for number in range(30):
            assert ask(f"queue={queue} k {number}".replace(" k ", " - ")) == b"TRUE"
    eventually(lambda: stage.outbox["messages"] == 30, "they wait, and that is told")
    assert stage.daemon.run("restart").returncode == 0
    stage.proxy.heal()
    stage.wait(queue, 30)
    eventually(lambda: stage.rows() == 0, "the outbox is empty")


@pytest.mark.parametrize("point", ["after-commit", "after-confirm"])
def test_a_worker_that_dies_before_or_after_the_confirm_loses_nothing(teller: Make, point: str) -> None:
    stage = teller(toml="[jobs.Teller]\ncrash_limit = 1000\n", environ={"HOLDFAST_FAULT": f"{point}:3"})
    stage.daemon.start()
    queue = stage.queue()
    with stage.client() as ask:
        for number in range(25):
            assert ask(f"queue={queue} - {number}") == b"TRUE"
            if point == "after-confirm":
                eventually(lambda: stage.rows() == 0, "each leaves by itself")
    eventually(lambda: sum(worker["restarts"] for worker in stage.daemon.workers()), "one has died")
    eventually(lambda: stage.rows() == 0, "the outbox is empty")
    assert {body for _id, body in stage.taken(queue)} == {str(number) for number in range(25)}
    assert stage.daemon.run("stop").returncode == 0


def test_a_broker_that_takes_nothing_is_waited_for_in_order(teller: Make, broker: Broker, services: Any) -> None:
    """connection.blocked: an alarm of the broker's memory."""
    stage = teller()
    stage.daemon.start()
    queue = stage.queue()
    services.control("set_vm_memory_high_watermark", "0")
    try:
        numbers = itertools.count()
        with stage.client() as ask:

            def tell() -> str:
                assert ask(f"queue={queue} - {next(numbers)}") == b"TRUE"
                return stage.daemon.log()

            eventually(lambda: "broker.blocked" in tell(), "the broker has said so, which it does some time after the alarm")
            for _ in range(20):
                tell()
        assert stage.rows() >= 20
        eventually(lambda: stage.outbox["messages"] >= 20 and "takes nothing" in stage.outbox.get("trouble", ""), "and so does status")
    finally:
        services.control("set_vm_memory_high_watermark", "0.4")
    told = next(numbers)
    stage.wait(queue, told)
    assert [body for _id, body in stage.taken(queue)] == [str(number) for number in range(told)]


def test_dead_letters_go_to_a_broker(teller: Make) -> None:
    stage = teller()
    queue = stage.queue()
    stage.daemon.toml.write_text(
        stage.daemon.toml.read_text() + f'[jobs.Teller]\ndead_letter = "amqp://127.0.0.1:{stage.proxy.port}/?queue={queue}"\n'
    )
    stage.daemon.start()
    with stage.client() as ask:
        assert ask(f"queue={queue} - fail") == b"FALSE"
    stage.wait(queue, 1)
    with stage.broker.channel() as channel:
        _method, properties, body = channel.basic_get(queue, auto_ack=True)
    assert body == f"queue={queue} - fail".encode()
    assert properties.headers["x-holdfast-reason"].endswith("ValueError: after all")
    assert properties.headers["x-holdfast-job"] == "Teller"


def test_a_dead_letter_that_no_message_can_carry_lies_in_the_store(teller: Make) -> None:
    stage = teller()
    more = f'[jobs.Teller]\nmax_message = "8MiB"\ndead_letter = "amqp://127.0.0.1:{stage.proxy.port}/?queue=nobody"\n'
    stage.daemon.toml.write_text(stage.daemon.toml.read_text() + more)
    stage.daemon.start()
    with stage.client() as ask:
        assert ask("x" * (5 << 20)) == b"FALSE"
    assert stage.daemon.status()["jobs"][0]["dead"] == 1
    assert len(json.loads(stage.daemon.run("failed", "list", "--json").stdout)) == 1


def test_an_exchange_that_is_not_there_blocks_only_itself(teller: Make) -> None:
    stage = teller()
    stage.daemon.start()
    queue = stage.queue()
    with stage.client() as ask:
        assert ask("exchange=not.there k lost") == b"TRUE"
        eventually(lambda: "NOT_FOUND" in stage.outbox.get("trouble", ""), "it is told")
        for number in range(20):
            assert ask(f"queue={queue} - {number}") == b"TRUE"
    stage.wait(queue, 20)
    assert sorted(stage.taken(queue)) == sorted((str(number), str(number)) for number in range(20))
    eventually(lambda: stage.outbox["messages"] == 1, "the other one waits")


@pytest.mark.parametrize("headers", [{"rate": 1.5}, {"big": 1 << 63}, {"n" * 129: 1}, {"": 1}, {"a": [{"b": b"x"}]}, {1: "x"}])
def test_headers_that_are_not_carried_fail_at_once(headers: Any) -> None:
    with pytest.raises(HoldfastError):
        check_headers(headers)


@pytest.mark.parametrize("headers", [{"CC": "key"}, {"BCC": [1]}, {"x": "y" * 40_000}])
def test_headers_that_a_broker_closes_over_fail_at_once(headers: Any) -> None:
    check_headers(headers)
    with pytest.raises(HoldfastError):
        encoded(headers)


def test_headers_that_are_carried(broker: Broker) -> None:
    headers = {"text": "é", "number": -(1 << 63), "truth": True, "nothing": None, "list": [1, "a", {"b": [None]}], "n" * 128: {}}
    check_headers(headers)
    with broker.channel() as channel:
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"", pika.BasicProperties(headers=headers))
        eventually(lambda: channel.queue_declare(queue, passive=True).method.message_count, "it is there")
        assert channel.basic_get(queue, auto_ack=True)[1].headers == headers


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("outbox = 'amqp://h/?queue=a'", "unknown parameter 'queue'"),
        ("outbox = 'http://h/'", "not the URL of a broker"),
        ("store = ''\noutbox = 'amqp://h/'", "there is none"),
        ("dead_letter = 'amqp://elsewhere/?queue=a'", "nothing says who we are at the broker amqp://elsewhere:5672/"),
        ("dead_letter = 'amqp://127.0.0.1:1/'", "an exchange or a queue"),
    ],
)
def test_what_is_wrong_is_told_before_the_start(teller: Make, toml: str, says: str) -> None:
    stage = teller(toml=f"[jobs.Teller]\n{toml}\n")
    told = stage.daemon.run("check", "--json")
    assert told.returncode == 2
    assert says in told.stderr + told.stdout


def test_what_could_never_be_sent_fails_in_the_handler(teller: Make) -> None:
    stage = teller()
    stage.daemon.start()
    with stage.client() as ask:
        assert ask("colour=red - x") == b"FALSE"
        assert ask("queue=a not-a x") == b"FALSE"
    letters = json.loads(stage.daemon.run("failed", "list", "--json").stdout)
    assert ["unknown parameter" in str(letters), "no key of its own" in str(letters), len(letters)] == [True, True, 2]


def test_pika_is_what_we_think(broker: Broker) -> None:
    """A message that nobody takes comes back before it is confirmed: the publisher relies on it."""
    with broker.channel() as channel:
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.UnroutableError):
            channel.basic_publish("", "nobody.at.all", b"x", mandatory=True)
