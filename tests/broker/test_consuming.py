"""A job behind a RabbitMQ queue: acknowledged after the commit, tried again on a ladder, given back when the daemon drains."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pika
import pytest
from broker_kit import Feeder, Stage

from holdfast.testing import eventually

Make = Callable[..., Stage]


def test_every_message_has_its_effect_and_leaves_the_queue(make: Make) -> None:
    stage = make()
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [b"work"] * 700)
    stage.done(ids)
    eventually(lambda: stage.job["handled"] == 700, "all are counted")
    assert stage.job["guarantee"] == "exactly-once"
    stage.empty()


def test_what_comes_twice_has_one_effect(make: Make) -> None:
    stage = make()
    stage.daemon.start()
    for _ in range(2):
        stage.done(stage.broker.publish(stage.queue, [b"work"] * 50))
    eventually(lambda: stage.job["duplicates"] == 50, "the second ones are known")
    stage.empty()


def test_a_message_that_fails_waits_on_the_ladder_and_keeps_its_identity(make: Make) -> None:
    stage = make(toml='[jobs.Add]\nbackoff = "1s..1s"\nretries = 3\n')
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [b"fails 3", b"work", b"fails 2"], headers={"colour": "red"})
    stage.done(ids)
    assert stage.job["retried"] == 3
    stage.empty()


def test_a_message_that_is_tried_again_is_copied_to_nobody_again(make: Make) -> None:
    stage = make(toml='[jobs.Add]\nbackoff = "1s..1s"\nretries = 3\n')
    stage.daemon.start()
    other = f"{stage.queue}.copies"
    with stage.broker.channel() as channel:
        channel.queue_declare(other, exclusive=True)
        stage.done(stage.broker.publish(stage.queue, [b"fails 2"], headers={"CC": [other]}))
        assert channel.queue_declare(other, passive=True).method.message_count == 1
    stage.empty()


def test_attempts_survive_the_daemon(make: Make) -> None:
    stage = make(toml='[jobs.Add]\nbackoff = "1s..1s"\nretries = 1\n')
    stage.daemon.start()
    stage.broker.publish(stage.queue, [b"fails 9"])
    eventually(lambda: stage.job["retried"] == 1, "it was put off")
    assert stage.daemon.run("stop").returncode == 0
    stage.daemon.start()
    # The letter, not the count of this start: it may have died before the stop, if that came late.
    eventually(lambda: "not yet" in stage.daemon.run("failed", "list").stdout, "its second try was the last")
    assert stage.job["retried"] == 0
    stage.empty()


def test_what_is_rejected_or_too_large_is_a_dead_letter_with_its_bytes(make: Make) -> None:
    stage = make(toml='[jobs.Add]\nmax_message = "1KiB"\n')
    stage.daemon.start()
    bodies = [b"reject", b"", b"\xff\xfe", b"x" * 2000]
    stage.broker.publish(stage.queue, bodies)
    eventually(lambda: stage.job["dead"] == 3, "three dead letters")
    stage.done(["m1"])
    told = stage.daemon.run("failed", "list").stdout
    assert "no good" in told
    assert "2000 bytes are more than max_message" in told
    assert "not UTF-8" in told
    stage.empty()


def test_a_letter_that_is_retried_works_once(make: Make) -> None:
    stage = make(toml="[jobs.Add]\nretries = 0\n")
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [b"fails 2"])
    eventually(lambda: stage.job["dead"] == 1, "a dead letter")
    for _ in range(2):
        stage.daemon.run("failed", "retry", "--all")
    stage.done(ids)
    stage.empty()


def test_the_daemon_gives_back_what_it_has_not_begun(make: Make) -> None:
    stage = make(toml="[jobs.Add]\nbatch = 1\n")
    stage.daemon.start()
    block = stage.daemon.folder / "block"
    stage.broker.publish(stage.queue, [f"block {block}".encode()] + [b"work"] * 30)
    eventually(lambda: (stage.daemon.folder / "block.began").exists(), "the first is begun")
    answer: list[int] = []
    stopping = threading.Thread(target=lambda: answer.append(stage.daemon.run("stop").returncode))
    stopping.start()
    eventually(lambda: stage.broker.depth(stage.queue) == 30 - len(stage.effects()) or answer, "what was prefetched is back")
    assert not answer, "it did not wait for the one that was begun"
    block.touch()
    stopping.join()
    assert answer == [0]
    assert stage.broker.depth(stage.queue) == 30
    assert stage.effects() == {"m0": 1}


def test_reload_and_scale_under_load_lose_and_double_nothing(make: Make) -> None:
    stage = make(toml="[jobs.Add]\nprocesses = 2\n")
    stage.daemon.start()
    pid = stage.daemon.pid
    with Feeder(stage.broker, stage.queue) as feeder:
        for number in range(3):
            feeder.more(50)
            assert stage.daemon.run("reload").returncode == 0
            assert stage.daemon.run("scale", "Add", str(1 + number % 2)).returncode == 0
        feeder.more(50)
    stage.done(feeder.ids)
    assert stage.daemon.pid == pid
    stage.empty()


def test_without_identities_it_is_at_least_once_and_says_so(make: Make) -> None:
    stage = make()
    stage.daemon.file.write_text(stage.daemon.file.read_text().replace("&identity=message_id", ""))
    told = stage.daemon.run("check")
    assert "Add: at-least-once" in told.stdout
    assert "identity=message_id" in told.stdout
    stage.daemon.start()
    with stage.broker.channel() as channel:
        channel.basic_publish("", stage.queue, b"work", pika.BasicProperties(delivery_mode=2))
    eventually(lambda: sum(stage.effects().values()) == 1, "its effect")
    assert stage.job["guarantee"] == "at-least-once"
    stage.empty()


@pytest.mark.parametrize(
    ("query", "said"),
    [("&declare=passive", "declare it at the broker"), ("&queue_type=classic", "declare=passive to take what is there")],
)
def test_a_queue_that_is_otherwise_is_refused_with_the_remedy(make: Make, query: str, said: str) -> None:
    stage = make(query=query)
    if "classic" in query:
        with stage.broker.channel() as channel:
            channel.queue_declare(stage.queue, durable=True, arguments={"x-queue-type": "quorum"})
    told = stage.daemon.run("start")
    assert told.returncode == 1
    assert said in told.stderr
    assert not stage.daemon.processes()


def test_wrong_credentials_are_told_at_once(make: Make) -> None:
    stage = make()
    stage.daemon.file.write_text(stage.daemon.file.read_text().replace("guest:guest@", "guest:secret-1@"))
    told = stage.daemon.run("start")
    assert told.returncode == 5
    assert "ACCESS_REFUSED" in told.stderr
    assert "secret-1" not in told.stderr + told.stdout + stage.daemon.log()


def test_an_exchange_is_declared_and_bound(make: Make) -> None:
    stage = make()
    name = f"x{stage.queue}"
    stage.daemon.file.write_text(
        stage.daemon.file.read_text().replace("&heartbeat", f"&exchange={name}&exchange_type=topic&routing_key=fee.*&heartbeat")
    )
    stage.daemon.start()
    with stage.broker.channel() as channel:
        channel.basic_publish(name, "fee.new", b"work", pika.BasicProperties(delivery_mode=2, message_id="by exchange"))
        stage.done(["by exchange"])
        channel.exchange_delete(name)
    stage.empty()
