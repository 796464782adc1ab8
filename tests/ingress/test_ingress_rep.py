"""Requests and answers: who is served, in which shapes, within which bounds."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from ingress_kit import Client, Supervisor, Worker, bodies, numbered, until

Make = Callable[..., Client]


@pytest.mark.parametrize("kind", ["tcp", "ipc", "long ipc"])
def test_req_and_dealer_are_served_together(supervisor: Supervisor, client: Make, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "s" if kind == "ipc" else "s" * 60
    endpoint = supervisor.listen(place=supervisor.tcp() if kind == "tcp" else supervisor.ipc(name))
    if kind == "long ipc":
        monkeypatch.chdir(supervisor.folder)
        endpoint = f"ipc://{name}"
    supervisor.tell("open")
    worker = supervisor.attach("W", 1000)
    req, dealer, bare = client(zmq.REQ, endpoint), client(zmq.DEALER, endpoint), client(zmq.DEALER, endpoint)
    req.send(b"req")
    for body in numbered(100):
        dealer.send(b"", body)
        bare.send(body)
    worker.serve(201)
    assert req.recv() == [b"req"]
    assert [dealer.recv() for _ in range(100)] == [[b"", body] for body in numbered(100)]
    assert [bare.recv() for _ in range(100)] == [[body] for body in numbered(100)]
    supervisor.reaches(received=201, answered=201, held=0, held_bytes=0, clients=3)


def test_a_long_envelope_is_echoed(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    dealer = client(zmq.DEALER, endpoint)
    dealer.send(b"hop", b"request 7", b"", b"body")
    (delivery,) = worker.take(1)
    assert (delivery.body, delivery.attempt, delivery.redelivered, delivery.doom) == (b"body", 1, False, "")
    worker.settle([delivery], b"yes")
    assert dealer.recv() == [b"hop", b"request 7", b"", b"yes"]
    req = client(zmq.REQ, endpoint, REQ_CORRELATE=1)
    req.send(b"again")
    worker.serve(1)
    assert req.recv() == [b"again"]


def test_an_empty_body_is_a_message(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    req, dealer = client(zmq.REQ, endpoint), client(zmq.DEALER, endpoint)
    req.send(b"")
    dealer.send(b"")
    worker.settle(worker.take(2), b"empty")
    assert req.recv() == [b"empty"]
    assert dealer.recv() == [b"empty"]


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ([b"", b"one", b"two"], [b"", b"FALSE"]),
        ([b"one", b"two"], [b"FALSE"]),
        ([b"hop", b"", b"one", b"two", b"three"], [b"hop", b"", b"FALSE"]),
        ([b"x" * 5000, b"", b"one"], [b"x" * 5000, b"", b"FALSE"]),
        ([b"hop"] * 20 + [b"", b"one"], [b"hop"] * 20 + [b"", b"FALSE"]),
    ],
)
def test_what_is_no_message_is_answered_false_at_once(supervisor: Supervisor, client: Make, sent: list[bytes], answer: list[bytes]) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    dealer = client(zmq.DEALER, endpoint)
    dealer.send(*sent)
    assert dealer.recv() == answer
    supervisor.reaches(refused=1, received=0, held=0)
    until(lambda: [line for line in supervisor.log() if line["event"] == "message.refused"], "a line in the log")


def test_nothing_is_read_before_open(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    worker = supervisor.attach("W", 10)
    req = client(zmq.REQ, endpoint)
    req.send(b"early")
    supervisor.reaches(clients=1)
    assert req.has_nothing(100)
    assert supervisor.tally()["received"] == 0
    supervisor.tell("open")
    worker.serve(1)
    assert req.recv() == [b"early"]


def test_clients_wait_while_there_is_no_worker(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    req = client(zmq.REQ, endpoint)
    req.send(b"patience")
    supervisor.reaches(held=1, waiting=1, held_bytes=8)
    supervisor.attach("W", 1).serve(1)
    assert req.recv() == [b"patience"]


def test_an_oversize_message_is_refused_and_others_are_unaffected(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    good, bad = client(zmq.REQ, endpoint), client(zmq.REQ, endpoint, RECONNECT_IVL=-1)
    good.send(b"1")
    supervisor.reaches(held=1)
    bad.send(bytes(2 << 20))
    supervisor.reaches(clients=1)
    worker.serve(1)
    assert good.recv() == [b"1"]
    largest = bytes(1 << 20)
    good.send(largest)
    worker.serve(1)
    assert good.recv() == [largest]
    assert supervisor.tally()["received"] == 2


def test_the_bound_holds_with_50_fast_clients(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(in_flight=200, in_flight_bytes=64 << 20)
    supervisor.tell("open")
    before = supervisor.rss()
    dealers = [client(zmq.DEALER, endpoint, SNDHWM=100_000) for _ in range(50)]
    for dealer in dealers:
        for number in range(200):
            dealer.send(b"%d" % number, b"", bytes(10_000))
    supervisor.reaches(held=200, clients=50)
    # 50 clients x 16 messages read ahead x 10 kB are 8 MB, the 200 held are 2 MB; all that was sent is 100 MB.
    assert supervisor.rss() - before < 40 << 20
    worker = supervisor.attach("W", 500)
    worker.serve(10_000)
    assert all(len([dealer.recv() for _ in range(200)]) == 200 for dealer in dealers)
    supervisor.reaches(held=0, answered=10_000, received=10_000)


def test_the_bound_in_bytes_holds(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(in_flight_bytes=25_000)
    supervisor.tell("open")
    dealer = client(zmq.DEALER, endpoint)
    for _ in range(10):
        dealer.send(bytes(10_000))
    supervisor.reaches(held=3, held_bytes=30_000)
    supervisor.attach("W", 100).serve(10)
    assert len([dealer.recv() for _ in range(10)]) == 10


def test_a_slow_reader_loses_no_answer_up_to_its_limit(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(in_flight_per_client=1000)
    supervisor.tell("open")
    worker = supervisor.attach("W", 100)
    slow, quick = client(zmq.DEALER, endpoint, RCVHWM=1, RCVBUF=4096), client(zmq.REQ, endpoint)
    answers = stuff(supervisor, worker, slow, quick, lambda counters: counters["parked"] >= 200)
    assert supervisor.tally()["dropped"] == 0
    assert [slow.recv() for _ in answers] == [[answer] for answer in answers]
    supervisor.reaches(parked=0, dropped=0, held=0)


def test_beyond_its_limit_a_slow_readers_answers_are_dropped_and_counted(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(in_flight_per_client=50, in_flight=50)
    supervisor.tell("open")
    worker = supervisor.attach("W", 100)
    slow, quick = client(zmq.DEALER, endpoint, RCVHWM=1, RCVBUF=4096), client(zmq.REQ, endpoint)
    answers = stuff(supervisor, worker, slow, quick, lambda counters: counters["dropped"] >= 30)
    counters = supervisor.reaches(parked=50)
    assert counters["answered"] + counters["dropped"] + counters["parked"] == counters["received"]
    received = [slow.recv()[0] for _ in range(len(answers) - counters["dropped"])]
    assert received == answers[: len(received)]  # the oldest are kept, in order
    supervisor.reaches(parked=0)
    assert slow.has_nothing()
    assert 0 < [line["event"] for line in supervisor.log()].count("answer.dropped") <= 3, "not a line for each: one in ten seconds"


def test_a_burst_for_a_client_that_reads_is_not_dropped(supervisor: Supervisor, client: Make) -> None:
    """One commit may settle more of a pipelining client's messages than are parked for one that does not read."""
    endpoint = supervisor.listen(in_flight_per_client=10)
    supervisor.tell("open")
    worker = supervisor.attach("W", 5000)
    dealer = client(zmq.DEALER, endpoint, SNDHWM=0, RCVHWM=0)
    for body in numbered(5000):
        dealer.send(body)
    worker.settle(worker.take(5000))
    assert len([dealer.recv() for _ in range(5000)]) == 5000
    supervisor.reaches(dropped=0, parked=0, answered=5000)


def stuff(supervisor: Supervisor, worker: Worker, slow: Client, quick: Client, enough: Callable[[dict[str, int]], bool]) -> list[bytes]:
    """Send answers to a client that does not read, until it is enough; another one is served all the while."""
    answers = []
    for round_ in range(2000):
        if enough(supervisor.tally()):
            break
        for _ in range(10):
            slow.send(b"please")
        taken = worker.take(10)
        sent = [b"%d:" % (10 * round_ + number) + bytes(50_000) for number in range(10)]
        for delivery, answer in zip(taken, sent, strict=True):
            worker.settle([delivery], answer)
        worker.credit(10)
        answers += sent
        quick.send(b"quick")
        worker.serve(1)
        assert quick.recv() == [b"quick"]
    assert enough(supervisor.reaches(held=0))
    return answers


def test_the_answer_of_a_client_that_has_gone_is_counted(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    taken = worker.take(1)
    req.close()
    supervisor.reaches(clients=0)
    other = client(zmq.REQ, endpoint)  # once this one is served libzmq has forgotten the first
    other.send(b"2")
    worker.serve(1)
    assert other.recv() == [b"2"]
    worker.settle(taken)
    supervisor.reaches(gone=1, held=0, answered=1)


def test_what_is_parked_for_a_client_that_goes_is_counted(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 100)
    slow, quick = client(zmq.DEALER, endpoint, RCVHWM=1, RCVBUF=4096), client(zmq.REQ, endpoint)
    stuff(supervisor, worker, slow, quick, lambda counters: counters["parked"] >= 5)
    parked = supervisor.tally()["parked"]
    slow.close()
    assert supervisor.reaches(parked=0)["gone"] >= parked


def test_a_fixed_identity_gets_its_answer_on_its_next_connection(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    first = client(zmq.DEALER, endpoint, IDENTITY=b"till 7")
    first.send(b"request 1", b"", b"body")
    taken = worker.take(1)
    first.close()
    supervisor.reaches(clients=0)
    again = client(zmq.DEALER, endpoint, IDENTITY=b"till 7")
    again.send(b"request 2", b"", b"body")
    taken += worker.take(1)
    worker.settle(taken)
    assert [again.recv()[0] for _ in range(2)] == [b"request 1", b"request 2"]


def test_a_client_with_a_fixed_identity_may_come_back_before_its_old_connection_is_gone(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(in_flight=1)
    supervisor.tell("open")
    first = client(zmq.DEALER, endpoint, IDENTITY=b"till 7")
    for body in numbered(3):  # one is held, two stay unread in the old connection
        first.send(body)
    supervisor.reaches(held=1)
    again = client(zmq.DEALER, endpoint, IDENTITY=b"till 7")
    again.send(b"again")
    supervisor.reaches(clients=2)
    worker = supervisor.attach("W", 10)
    while bodies(worker.serve(1)) != [b"again"]:
        pass
    until(lambda: again.recv() == [b"again"], "the answer")


def test_connections_beyond_the_limit_wait_outside(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(max_clients=3)
    supervisor.tell("open")
    worker = supervisor.attach("W", 100)
    inside = [client(zmq.REQ, endpoint) for _ in range(3)]
    for number, req in enumerate(inside):
        req.send(b"%d" % number)
    worker.serve(3)
    supervisor.reaches(clients=3)
    late = client(zmq.REQ, endpoint)
    late.send(b"late")
    assert worker.has_nothing()
    assert late.has_nothing(200)
    for number, req in enumerate(inside):
        assert req.recv() == [b"%d" % number]
    inside[0].close()
    worker.serve(1)
    assert late.recv() == [b"late"]
    supervisor.reaches(clients=3, received=4, answered=4)


def test_the_door_is_opened_again_for_the_next_ingress(supervisor: Supervisor, client: Make) -> None:
    place = supervisor.tcp()
    endpoint = supervisor.listen(place=place, max_clients=1)
    client(zmq.REQ, endpoint)
    supervisor.reaches(clients=1)
    supervisor.tell("leave")
    assert supervisor.exits() == 0
    with socket.create_connection(place[1].getsockname(), timeout=20):
        place[1].accept()[0].close()


def test_what_slips_in_beyond_the_limit_is_cut(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(place=supervisor.ipc("s"), max_clients=2)
    supervisor.tell("open")
    worker = supervisor.attach("W", 100)
    inside = [client(zmq.REQ, endpoint) for _ in range(2)]
    supervisor.reaches(clients=2)
    with socket.socket(socket.AF_UNIX) as beyond:
        beyond.settimeout(20)
        beyond.connect(endpoint.removeprefix("ipc://"))
        while beyond.recv(1000):
            pass  # until it is cut
    for req in inside:
        req.send(b"still here")
        worker.serve(1)
        assert req.recv() == [b"still here"]
    assert [line["event"] for line in supervisor.log()].count("client.refused") == 1


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(255, -1, -3)) * 40, b"\xff" + bytes(8) + b"\x7f" + b"\x09" * 200]
)
def test_garbage_disturbs_nobody(supervisor: Supervisor, client: Make, garbage: bytes) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    host, port = endpoint[6:].split(":")
    req = client(zmq.REQ, endpoint)
    for number in range(3):
        with socket.create_connection((host, int(port)), timeout=20) as raw:
            raw.sendall(garbage)
            req.send(b"%d" % number)
            worker.serve(1)
            assert req.recv() == [b"%d" % number]
    supervisor.reaches(clients=1)
    assert supervisor.process.poll() is None


def test_a_peer_that_never_finishes_its_greeting_is_cut(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(handshake=0.5)
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    host, port = endpoint[6:].split(":")
    req = client(zmq.REQ, endpoint)
    with socket.create_connection((host, int(port))) as raw:
        raw.settimeout(0.1)
        greeting = iter(b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + bytes(48))
        closed = False
        while not closed:
            try:
                raw.send(bytes([next(greeting)]))
                closed = not raw.recv(1000)
            except TimeoutError:
                continue
            except OSError:
                closed = True
            req.send(b"1")
            worker.serve(1)
            assert req.recv() == [b"1"]
    supervisor.reaches(clients=1)


def test_two_jobs_do_not_mix(supervisor: Supervisor, client: Make) -> None:
    first, second = supervisor.listen(row=0), supervisor.listen(row=1)
    supervisor.tell("open")
    workers = [supervisor.attach("A", 10, row=0), supervisor.attach("B", 10, row=1)]
    one, two = client(zmq.REQ, first), client(zmq.REQ, second)
    one.send(b"one")
    two.send(b"two")
    taken = [worker.take(1) for worker in workers]
    assert [bodies(deliveries) for deliveries in taken] == [[b"one"], [b"two"]]
    assert len({deliveries[0].seq for deliveries in taken}) == 2  # unique in the process, not in the job
    workers[1].settle(taken[1])
    assert two.recv() == [b"TRUE"]
    supervisor.reaches(row=0, held=1)
    supervisor.reaches(row=1, held=0, answered=1)


def test_what_cannot_be_listened_on_is_said(supervisor: Supervisor) -> None:
    packet: dict[str, Any] = {"job": "J", "row": 0, "transport": "rep", "endpoint": "tcp://nowhere", "limits": {}}
    supervisor.tell("listen", **packet)
    assert "no listener" in supervisor.hear("failed")["reason"]
    supervisor.tell("listen", **{**packet, "transport": "smoke"})
    assert "unknown transport 'smoke'" in supervisor.hear("failed")["reason"]
    supervisor.tell("listen", **{**packet, "transport": "pull", "connect": True, "endpoint": "tcp://nowhere"})
    assert "cannot listen on tcp://nowhere" in supervisor.hear("failed")["reason"]
    supervisor.tell("leave")
    assert supervisor.exits() == 0
