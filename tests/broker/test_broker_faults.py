"""What brokers, networks and workers do at the wrong moment: every confirmed message has one effect, and consuming goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
from broker_kit import Feeder, Stage, noted

from holdfast.testing import eventually
from servers_kit import Services

Make = Callable[..., Stage]
ACK = b"\x00\x3c\x00\x50"  # basic.ack


def test_a_connection_that_is_cut_between_commit_and_acknowledgement(make: Make) -> None:
    stage = make()
    stage.daemon.start()
    for number in range(6):
        stage.proxy.cut_at(ACK, delivered=bool(number % 2))
        ids = stage.broker.publish(stage.queue, [b"work"] * 20, f"{number}.")
        eventually(lambda number=number: stage.proxy.strikes > number, "an acknowledgement was cut")
        eventually(lambda ids=ids: set(ids) <= set(stage.effects()), "they have their effects")
    assert set(stage.effects().values()) == {1}
    assert len(stage.effects()) == 120
    eventually(lambda: stage.job["duplicates"] > 0, "what came again is known")
    stage.empty()


def test_a_black_hole_is_noticed_and_left(make: Make) -> None:
    stage = make(heartbeat=2)
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [b"work"] * 20, "a")
    stage.done(ids)
    stage.proxy.stall()
    before = stage.daemon.log().count("broker.away")
    ids += stage.broker.publish(stage.queue, [b"work"] * 20, "b")
    eventually(lambda: stage.daemon.log().count("broker.away") > before, "the heartbeats are missed")
    stage.proxy.heal()
    stage.done(ids)
    stage.empty()


def test_connections_that_are_cut_again_and_again(make: Make) -> None:
    stage = make(toml="[jobs.Add]\nprocesses = 2\n")
    stage.daemon.start()
    worker = stage.daemon.workers()[0]["pid"]
    before = len(os.listdir(f"/proc/{worker}/fd"))
    with Feeder(stage.broker, stage.queue) as feeder:
        for _ in range(10):
            feeder.more(20)
            stage.proxy.cut()
    stage.done(feeder.ids)
    eventually(lambda: len(os.listdir(f"/proc/{worker}/fd")) <= before + 2, "it has no more open than before")
    stage.empty()


def test_a_deleted_queue_is_declared_again_and_old_tags_are_void(make: Make) -> None:
    stage = make()
    stage.daemon.start()
    block = stage.daemon.folder / "block"
    first = stage.broker.publish(stage.queue, [f"block {block}".encode()], "first")
    eventually(lambda: (stage.daemon.folder / "block.began").exists(), "it is begun")
    with stage.broker.channel() as channel:
        channel.queue_delete(stage.queue)
    eventually(lambda: "source.cancelled" in stage.daemon.log(), "the broker has cancelled")
    eventually(lambda: _there(stage), "the queue is there again")
    block.touch()
    second = stage.broker.publish(stage.queue, [b"work"] * 20, "second")
    stage.done([*first, *second])
    stage.empty()


def _there(stage: Stage) -> bool:
    import pika.exceptions

    try:
        stage.broker.depth(stage.queue)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


def test_a_broker_that_is_away_at_the_start_is_waited_for(make: Make) -> None:
    stage = make()
    stage.proxy.cut(refuse=True)
    answer: list[int] = []
    starting = threading.Thread(target=lambda: answer.append(stage.daemon.run("start").returncode))
    starting.start()
    eventually(lambda: "broker.away" in stage.daemon.log(), "it was asked in vain")
    assert not answer
    stage.proxy.heal()
    starting.join()
    assert answer == [0]
    stage.done(stage.broker.publish(stage.queue, [b"work"]))
    stage.empty()


def test_workers_that_are_killed_lose_and_double_nothing(make: Make) -> None:
    stage = make(toml="[jobs.Add]\nprocesses = 2\ncrash_limit = 1000\n")
    stage.daemon.start()
    with Feeder(stage.broker, stage.queue) as feeder:
        for _ in range(6):
            feeder.more(40)
            victim = eventually(stage.daemon.workers, "a worker")[0]["pid"]
            stage.daemon.kill(victim)
            eventually(lambda victim=victim: victim not in [w["pid"] for w in stage.daemon.workers()], "another one")
    stage.done(feeder.ids)
    stage.empty()


def test_a_worker_that_is_stopped_and_continued_acknowledges_nothing_old(make: Make) -> None:
    stage = make(heartbeat=2, toml='[jobs.Add]\nheartbeat = "600s"\n')  # the broker leaves it, and nobody replaces it meanwhile
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [b"work"] * 5, "a")
    stage.done(ids)
    worker = stage.daemon.workers()[0]["pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        ids += stage.broker.publish(stage.queue, [b"work"] * 50, "b")
        eventually(lambda: stage.broker.depth(stage.queue) >= 50, "the broker has taken back what was not acknowledged")
    finally:
        os.kill(worker, signal.SIGCONT)
    stage.done(ids)
    stage.empty()


def test_a_message_that_kills_its_workers_ends_alone(make: Make) -> None:
    stage = make(toml="[jobs.Add]\nthreads = 4\n")
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [*[b"work"] * 30, b"segv", *[b"work"] * 30])
    del ids[30]
    eventually(lambda: "killed its worker" in stage.daemon.run("failed", "list").stdout, "it is a dead letter")
    stage.done(ids)
    stage.empty()


def test_what_the_broker_drops_is_kept(make: Make) -> None:
    stage = make(query="&delivery_limit=2", toml="[jobs.Add]\ncrash_limit = 1000\n")
    stage.daemon.start()
    stage.broker.publish(stage.queue, [f"block {stage.daemon.folder}/never".encode()])
    for _ in range(3):
        began = stage.daemon.folder / "never.began"
        eventually(began.exists, "it is begun")
        began.unlink()
        stage.daemon.kill(eventually(stage.daemon.workers, "the worker that has begun it")[0]["pid"])
    eventually(lambda: stage.broker.depth(f"{stage.queue}.dropped") == 1, "the broker has given it up, and it is not gone")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_broker_that_ends_with_messages_out_and_comes_again(make: Make, services: Services, number: signal.Signals) -> None:
    stage = make(toml="[jobs.Add]\nprocesses = 2\n")
    stage.daemon.start()
    block = stage.daemon.folder / "block"
    ids = stage.broker.publish(stage.queue, [f"block {block}".encode(), *[b"work"] * 500])
    eventually(lambda: (stage.daemon.folder / "block.began").exists(), "it is begun")
    eventually(lambda: noted(services, stage.queue), "the broker has written down that there is such a queue, which it does later")
    if number == signal.SIGTERM:
        services.end_gently("rabbitmq")
    else:
        services.run("kill", "rabbitmq")
    block.touch()
    services.run("start", "rabbitmq")
    stage.done(ids)
    stage.empty()
