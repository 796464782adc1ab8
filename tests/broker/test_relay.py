"""The relay: what is refused holds up nobody else; another process takes over from one that is killed, or stands still."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from broker_kit import noted
from outbox_kit import Stage

from holdfast.testing import eventually
from holdfast.testing.databases import Databases, query
from servers_kit import Services

Make = Callable[..., Stage]
SOON_LOST = '__import__("holdfast.stores.hold").stores.hold.HOLD_SECONDS = 4.0  # and no other time limit is shorter for that'


def test_a_target_that_refuses_holds_up_no_other(teller: Make) -> None:
    """Hundreds without a key, to a queue that is not there; and a broker that was away."""
    stage = teller()
    queue, other = stage.queue(), stage.queue()
    stage.proxy.cut(refuse=True)
    stage.daemon.start()
    with stage.broker.channel() as channel:
        channel.queue_delete(queue)
        stage.tell([f"queue={queue} - a{number}" for number in range(700)] + [f"queue={other} - b{number}" for number in range(300)])
        stage.proxy.heal()
        stage.wait(other, 300)
        eventually(
            lambda: stage.outbox["messages"] == 700 and "NO_ROUTE" in stage.outbox.get("trouble", ""), "the others wait, and it is told why"
        )
        channel.queue_declare(queue, durable=True)
        stage.wait(queue, 700)
    assert {body for _id, body in stage.taken(other)} == {f"b{number}" for number in range(300)}
    eventually(lambda: stage.outbox["messages"] == 0, "nothing waits any more")


def test_a_message_that_spoils_the_channel_is_found_and_waits_alone(teller: Make) -> None:
    """The broker closes the channel over one of many, and does not say which."""
    stage = teller()
    queue = stage.queue()
    stage.proxy.cut(refuse=True)
    stage.daemon.start()
    stage.tell(f"queue={queue} - {number}" for number in range(20))
    assert stage.daemon.run("stop").returncode == 0  # or the relay may have read it already
    query(stage.store, """UPDATE holdfast_outbox SET headers = '{"CC": "x"}' WHERE message_id = '7'""")
    stage.proxy.heal()
    stage.daemon.start()
    stage.wait(queue, 19)
    eventually(lambda: stage.outbox["messages"] == 1 and "CC" in stage.outbox.get("trouble", ""), "one waits, and it is told why")
    assert {body for _id, body in stage.taken(queue)} == {str(number) for number in range(20) if number != 7}


def test_a_broker_that_is_killed_while_much_waits(teller: Make, services: Services) -> None:
    """Answers go on while it is away; then all of it leaves, each key in order."""
    stage = teller()
    stage.daemon.start()
    queue, exchange = stage.queue(), f"x{stage.port}"
    with stage.broker.channel() as channel:
        channel.exchange_declare(exchange, exchange_type="fanout", durable=True)
        channel.queue_bind(queue, exchange)
    last = stage.queue(quorum=True)
    eventually(lambda: noted(services, last), "the broker has written down all of that")
    sent = [f"exchange={exchange} {'-' if number % 3 else f'k{number % 5}'} {number}" for number in range(2000)]
    stage.tell(sent[:1000])
    services.run("kill", "rabbitmq")
    stage.tell(sent[1000:])
    eventually(lambda: all_is_told(stage.outbox, stage.rows()), "it is told what waits, since when, and why")
    services.run("start", "rabbitmq")
    eventually(lambda: stage.rows() == 0, "all of it leaves", 120)
    eventually(lambda: stage.outbox == {"messages": 0, "age_s": 0.0}, "and that is told")
    complete(stage.taken(queue), sent)
    assert stage.daemon.run("stop").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_another_process_takes_over(teller: Make, number: signal.Signals) -> None:
    stage = teller(toml='[jobs.Teller]\nprocesses = 2\nheartbeat = "2s"\n')
    stage.daemon.start()
    queue = stage.queue()
    sent = [f"queue={queue} - {number}" for number in range(300)]
    stage.proxy.stall()
    stage.tell(sent)
    holder = eventually(lambda: relaying(stage), "one of them relays")
    os.kill(holder, number)
    eventually(lambda: relaying(stage) not in (0, holder), "another one does")
    stage.proxy.heal()
    eventually(lambda: stage.rows() == 0, "all of it leaves")
    complete(stage.taken(queue), sent)
    eventually(lambda: stage.outbox["messages"] == 0, "nothing waits")


def test_another_daemon_takes_over_from_one_that_stands_still(teller: Make, databases: Databases) -> None:
    how = {"store": databases.make("mariadb"), "toml": "[jobs.Teller]\nthreads = 1\n", "more": SOON_LOST}
    first = teller(**how)
    second = teller(**how, like=first)
    queue = first.queue()
    sent = [f"queue={queue} - {number}" for number in range(300)]
    for one in (first, second):
        one.daemon.start()
    first.proxy.stall()
    first.tell(sent[1:])
    eventually(lambda: relaying(first), "it relays")
    with standing_still(first):
        second.tell(sent[:1])
        eventually(lambda: relaying(second), "the other one does")
        first.proxy.heal()
        eventually(lambda: second.rows() == 0, "all of it leaves")
        eventually(lambda: second.outbox["messages"] == 0, "nothing waits")
    complete(first.taken(queue), sent)
    assert first.daemon.run("stop").returncode == 0


@contextmanager
def standing_still(stage: Stage) -> Iterator[None]:
    """Every process of the daemon."""
    pids = list(stage.daemon.processes())
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it was about to end
            os.kill(pid, number)


def relaying(stage: Stage) -> int:
    """The worker that has a connection to the broker; 0: none."""
    remote = f":{stage.proxy.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    connections = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(remote) and row[3] == "01"}
    for pid in stage.daemon.processes():
        try:
            if connections & {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}:
                return pid
        except OSError:
            continue
    return 0


def all_is_told(outbox: dict[str, Any], rows: int) -> bool:
    return outbox["messages"] == rows >= 1000 and outbox["age_s"] > 0 and bool(outbox.get("trouble"))


def complete(taken: Iterable[tuple[str, str]], sent: Iterable[str]) -> None:
    """Nothing is missing; what came twice came with the same message id, and each key's first ones are in order."""
    order: dict[str, list[str]] = defaultdict(list)
    bodies = []
    keys = {}
    for text in sent:
        _where, key, body = text.split(" ")
        bodies.append(body)
        keys[body] = key
    seen = set()
    for message_id, body in taken:
        assert message_id == body
        if body not in seen and keys[body] != "-":
            order[keys[body]].append(body)
        seen.add(body)
    assert seen == set(bodies)
    assert all(some == sorted(some, key=int) for some in order.values())
