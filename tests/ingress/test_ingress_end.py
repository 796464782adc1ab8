"""Drain, leave, and what happens when nobody is there to say so."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from ingress_kit import Client, Supervisor, until

Make = Callable[..., Client]


def test_drain_finishes_what_is_held_and_reads_nothing_new(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 1)
    inside, outside = client(zmq.REQ, endpoint), client(zmq.REQ, endpoint)
    inside.send(b"1")
    taken = worker.take(1)
    supervisor.tell("drain")
    supervisor.obeyed()
    outside.send(b"2")
    worker.settle(taken)
    assert inside.recv() == [b"TRUE"]
    supervisor.hear("drained")
    assert supervisor.tally()["received"] == 1
    supervisor.tell("drain")
    supervisor.hear("drained")
    assert outside.has_nothing()
    supervisor.tell("leave")
    assert supervisor.exits() == 0


def test_drain_is_over_at_once_when_nothing_is_held(supervisor: Supervisor) -> None:
    supervisor.listen()
    supervisor.tell("open")
    supervisor.tell("drain")
    supervisor.hear("drained")


def test_drain_redelivers(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    first = supervisor.attach("W1", 1)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    first.take(1)
    supervisor.tell("drain")
    supervisor.dead(first)
    supervisor.attach("W2", 1).serve(1)
    assert req.recv() == [b"1"]
    supervisor.hear("drained")


def test_drain_does_not_wait_for_a_retry_that_is_due_after_the_stop(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    (delivery,) = worker.take(1)
    worker.tell("retry", [(delivery.seq, 3600.0, "later")])
    supervisor.reaches(waiting=1)
    supervisor.tell("drain")
    supervisor.hear("drained")
    assert [line["unanswered"] for line in supervisor.log() if line["event"] == "ingress.drained"] == [1]
    supervisor.tell("leave")
    assert supervisor.exits() == 0
    assert req.has_nothing()  # FALSE would say that it is not done, and not done later


def test_open_after_drain_reads_again(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    supervisor.tell("drain")
    supervisor.hear("drained")
    supervisor.tell("open")
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    supervisor.attach("W", 1).serve(1)
    assert req.recv() == [b"1"]


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Supervisor]:
    """The answers that leave at the end have the time that this machine takes."""
    made = Supervisor(tmp_path, linger=20.0)
    yield made
    made.close()


def test_leave_flushes_answers(patient: Supervisor, client: Make) -> None:
    supervisor = patient
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 1000)
    dealer = client(zmq.DEALER, endpoint, RCVHWM=0)
    for _ in range(300):
        dealer.send(b"1")
    taken = worker.take(300)
    worker.settle(taken, bytes(20_000))
    supervisor.reaches(held=0)
    supervisor.tell("leave")
    assert [len(dealer.recv()[0]) for _ in range(300)] == [20_000] * 300
    assert supervisor.exits() == 0


def test_leave_does_not_wait_long_for_a_client_that_reads_nothing(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(in_flight_per_client=10)
    supervisor.tell("open")
    worker = supervisor.attach("W", 1000)
    dealer = client(zmq.DEALER, endpoint, RCVHWM=1, RCVBUF=4096)
    for _ in range(300):
        dealer.send(b"1")
    worker.settle(worker.take(300), bytes(60_000))
    until(lambda: supervisor.tally()["parked"] >= 10, "parked answers")
    supervisor.tell("leave")
    assert supervisor.exits() == 0


def test_without_a_supervisor_it_finishes_and_leaves(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 1)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    taken = worker.take(1)
    supervisor.channel.close()
    until(lambda: "ingress.alone" in [line["event"] for line in supervisor.log()], "alone")
    assert supervisor.process.poll() is None
    worker.settle(taken)
    assert req.recv() == [b"TRUE"]
    assert supervisor.exits() == 0


def test_without_a_supervisor_and_without_workers_it_leaves_at_once(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 1)
    client(zmq.REQ, endpoint).send(b"1")
    worker.take(1)
    supervisor.channel.close()
    worker.sock.close()
    assert supervisor.exits() == 0


def test_without_a_supervisor_it_is_gone_within_the_stop_timeout(tmp_path: Path, client: Make) -> None:
    supervisor = Supervisor(tmp_path, stop_timeout=0.2)
    try:
        endpoint = supervisor.listen()
        supervisor.tell("open")
        worker = supervisor.attach("W", 1)
        client(zmq.REQ, endpoint).send(b"1")
        worker.take(1)
        supervisor.channel.close()
        assert supervisor.exits() == 0
    finally:
        supervisor.close()


def test_term_from_outside_drains_and_leaves(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 1)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    taken = worker.take(1)
    supervisor.process.send_signal(signal.SIGTERM)
    until(lambda: "ingress.alone" in [line["event"] for line in supervisor.log()], "alone")
    worker.settle(taken)
    assert req.recv() == [b"TRUE"]
    supervisor.hear("drained")
    assert supervisor.exits() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_signals_for_the_supervisor_are_ignored(supervisor: Supervisor, client: Make, number: signal.Signals) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    supervisor.process.send_signal(number)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    supervisor.attach("W", 1).serve(1)
    assert req.recv() == [b"1"]


def test_the_supervisors_listener_outlives_the_ingress(supervisor: Supervisor) -> None:
    place = supervisor.ipc("s")
    supervisor.listen(place=place)
    supervisor.listen(place=supervisor.tcp(), row=1)
    supervisor.tell("leave")
    assert supervisor.exits() == 0
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(place[0].removeprefix("ipc://"))


def test_idle_it_sleeps(supervisor: Supervisor, client: Make) -> None:
    """No wake-ups: neither of the loop nor of libzmq, also with clients, workers, and a job that is full."""
    endpoint = supervisor.listen(in_flight=1)
    supervisor.tell("open")
    supervisor.attach("W")
    dealer = client(zmq.DEALER, endpoint)
    for _ in range(5):
        dealer.send(b"1")
    supervisor.reaches(held=1)

    def quiet() -> bool:
        before = supervisor.wakeups()
        assert dealer.has_nothing(300)
        return supervisor.wakeups() == before

    until(quiet, "300 ms without a wake-up")
