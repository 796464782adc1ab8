"""PULL and SUB: nobody waits for an answer."""

from __future__ import annotations

from collections.abc import Callable

import zmq
from ingress_kit import Client, Supervisor, bodies, numbered, until

Make = Callable[..., Client]


def test_pull_takes_what_is_pushed(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen("pull", in_flight=50)
    supervisor.tell("open")
    push = client(zmq.PUSH, endpoint)
    for body in numbered(500):
        push.send(body)
    supervisor.reaches(held=50)
    worker = supervisor.attach("W", 1000)
    assert bodies(worker.serve(500)) == list(numbered(500))
    supervisor.reaches(received=500, held=0, answered=0)


def test_pull_refuses_what_has_more_than_one_frame(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen("pull")
    supervisor.tell("open")
    push = client(zmq.PUSH, endpoint)
    push.send(b"one", b"two", b"three")
    push.send(b"whole")
    assert bodies(supervisor.attach("W", 10).take(1)) == [b"whole"]
    supervisor.reaches(refused=1, received=1)


def test_pull_connects(supervisor: Supervisor, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    push = context.socket(zmq.PUSH)
    port = push.bind_to_random_port("tcp://127.0.0.1")
    endpoint = f"tcp://127.0.0.1:{port}"
    supervisor.tell("listen", job="J0", row=0, transport="pull", endpoint=endpoint, connect=True, limits={})
    supervisor.hear("listening")
    supervisor.tell("open")
    push.send(b"hello")
    assert bodies(supervisor.attach("W", 1).take(1)) == [b"hello"]
    supervisor.reaches(clients=1)
    push.close(0)
    supervisor.reaches(clients=0)


def publish(pub: Client, worker_has: Callable[[], bool], *frames: bytes) -> None:
    """Publish again until a subscription has arrived."""

    def published() -> bool:
        pub.send(*frames)
        return worker_has()

    until(published, "a subscription")


def test_sub_takes_topics(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen("sub", topics=["rates", "news"])
    supervisor.tell("open")
    pub = client(zmq.PUB, endpoint)
    worker = supervisor.attach("W", 10_000)
    publish(pub, lambda: not worker.has_nothing(), b"rates", b"first")
    pub.send(b"weather", b"not for us")
    pub.send(b"news today")
    pub.send(b"rates.eur", b"last")
    found = worker.take(1)
    while found[-1].body != b"last":
        found += worker.take(1)
    whole = [(delivery.body, delivery.headers) for delivery in found if delivery.body != b"first"]
    assert (found[0].body, found[0].headers) == (b"first", {"topic": "rates"})
    assert whole == [(b"news today", None), (b"last", {"topic": "rates.eur"})]


def test_sub_without_topics_takes_all_and_refuses_three_frames(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen("sub")
    supervisor.tell("open")
    pub = client(zmq.PUB, endpoint)
    worker = supervisor.attach("W", 10_000)
    publish(pub, lambda: not worker.has_nothing(), b"any", b"first")
    pub.send(b"a", b"b", b"c")
    pub.send(b"last")
    while worker.take(1)[0].body != b"last":
        pass
    supervisor.reaches(refused=1)
