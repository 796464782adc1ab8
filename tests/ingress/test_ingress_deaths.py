"""Workers die, hang, give back, retry, speak nonsense: no accepted message is lost, no client is answered twice."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from ingress_kit import Client, Supervisor, Worker, bodies, numbered, until

import holdfast
from holdfast.model.delivery import DONE, encode

Make = Callable[..., Client]

#: A process that takes messages, settles the first half of what it was told to take, and then waits to be killed.
CHILD = """
import socket, sys
from holdfast.model.delivery import DONE, Decoder, encode
sock, most = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
decoder, taken = Decoder(deliveries=True), []
sock.sendall(encode(("credit", most)))
while len(taken) < most:
    for _verb, deliveries in decoder.feed(sock.recv(65536)):
        taken += deliveries
half = [(d.seq, DONE, d.body) for d in taken[: most // 2]]
sock.sendall(encode(("settled", half)) + encode(("settled", [(taken[-1].seq, DONE, b"torn off")]))[:-2])
print(*[d.seq for d in taken], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def serving(supervisor: Supervisor) -> tuple[Supervisor, str]:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    return supervisor, endpoint


def spawn(sock: socket.socket, most: int) -> subprocess.Popen[bytes]:
    """A real process that holds the worker's end of a data socket."""
    sock.setblocking(True)
    command = [sys.executable, "-c", CHILD, str(sock.fileno()), str(most)]
    home = str(Path(holdfast.__file__).parent.parent)
    environ = {**os.environ, "PYTHONPATH": home}
    child = subprocess.Popen(command, pass_fds=[sock.fileno()], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    sock.close()
    return child


def test_a_killed_workers_messages_go_to_another_and_each_client_is_answered_once(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    first = supervisor.attach("W1")
    child = spawn(first.sock, 10)
    dealer, req = client(zmq.DEALER, endpoint), client(zmq.REQ, endpoint)
    req.send(b"from req")
    supervisor.reaches(held=1)
    for body in numbered(19):
        dealer.send(body)
    assert child.stdout is not None
    assert child.stdin is not None
    seqs = [int(seq) for seq in child.stdout.readline().split()]
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    second = supervisor.attach("W2", 100)
    waiting = second.take(10)
    supervisor.dead(first)
    again = second.take(5)
    child.stdout.close()
    child.stdin.close()
    assert [(delivery.seq, delivery.redelivered) for delivery in again] == [(seq, True) for seq in seqs[5:]]
    assert not any(delivery.redelivered for delivery in waiting)
    for delivery in (*waiting, *again):
        second.tell("settled", [(delivery.seq, DONE, delivery.body)])
    assert req.recv() == [b"from req"]
    assert sorted(dealer.recv()[0] for _ in range(19)) == sorted(numbered(19))
    supervisor.reaches(held=0, answered=20, redelivered=5, waiting=0)
    assert dealer.has_nothing()


def test_what_a_dead_worker_had_settled_counts_even_if_its_end_stays_open(serving: tuple[Supervisor, str], client: Make) -> None:
    """A child that user code had forked keeps the worker's end: no end of the stream may be waited for."""
    supervisor, endpoint = serving
    first = supervisor.attach("W1", 10)
    dealer = client(zmq.DEALER, endpoint)
    for body in numbered(4):
        dealer.send(body)
    taken = first.take(4)
    os.kill(supervisor.process.pid, signal.SIGSTOP)
    supervisor.tell("open")  # so that the ingress sees the supervisor's words first, and then the worker's
    first.settle(taken[:2], b"by W1")
    first.sock.sendall(encode(("settled", [(taken[2].seq, DONE, b"torn off")]))[:-1])
    supervisor.dead(first)
    second = supervisor.attach("W2", 10)
    os.kill(supervisor.process.pid, signal.SIGCONT)
    again = second.take(2)
    assert [delivery.seq for delivery in again] == [delivery.seq for delivery in taken[2:]]
    second.settle(again, b"by W2")
    assert [dealer.recv()[0] for _ in range(4)] == [b"by W1", b"by W1", b"by W2", b"by W2"]
    assert until(lambda: select.select([first.sock], [], [], 0)[0], "the end")
    assert first.sock.recv(10) == b""
    assert [line["redelivered"] for line in supervisor.log() if line["event"] == "worker.dead"] == [2]


def test_the_end_of_a_socket_is_not_the_death_of_its_worker(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    first = supervisor.attach("W1", 10)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    first.take(1)
    first.sock.close()
    second = supervisor.attach("W2", 10)
    other = client(zmq.REQ, endpoint)
    other.send(b"2")
    assert bodies(second.serve(1)) == [b"2"]
    assert other.recv() == [b"2"]
    assert second.has_nothing()
    supervisor.dead(first)
    assert bodies(second.serve(1)) == [b"1"]
    assert req.recv() == [b"1"]


def test_what_a_stopped_worker_says_after_it_was_declared_dead_is_void(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    first, second = supervisor.attach("W1", 10), supervisor.attach("W2")
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    late = first.take(1)
    supervisor.dead(first)
    second.credit(1)
    again = second.take(1)
    with pytest.raises(OSError):
        first.settle(late, b"late")
    second.settle(again, b"in time")
    assert req.recv() == [b"in time"]


def test_suspects_run_alone_in_quarantine(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    first = supervisor.attach("W1", 10)
    dealer = client(zmq.DEALER, endpoint)
    for body in numbered(5):
        dealer.send(body)
    taken = first.take(5)
    second = supervisor.attach("W2", 10)
    supervisor.dead(first, [taken[1].seq, taken[3].seq], "killed by signal 11")
    assert bodies(second.serve(3)) == [b"0", b"2", b"4"]
    assert supervisor.hear("suspects") == {"say": "suspects", "job": "J0", "count": 2}
    supervisor.reaches(suspects=2, held=2)
    assert second.has_nothing()
    quarantine = supervisor.attach("Q", 10, quarantine=True)
    (suspect,) = quarantine.take(1)
    assert (suspect.body, suspect.redelivered, suspect.attempt) == (b"1", True, 1)
    assert quarantine.has_nothing()
    quarantine.settle([suspect])
    quarantine.settle(quarantine.take(1))
    assert supervisor.hear("suspects") == {"say": "suspects", "job": "J0", "count": 0}
    assert len([dealer.recv() for _ in range(5)]) == 5


def test_a_message_that_kills_alone_gets_its_doom(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(crash_limit=2)
    supervisor.tell("open")
    req = client(zmq.REQ, endpoint)
    req.send(b"poison")
    worker = supervisor.attach("W", 1)
    (poison,) = worker.take(1)
    supervisor.dead(worker, [poison.seq], "killed by signal 11")
    seen = []
    for number in range(3):
        quarantine = supervisor.attach(f"Q{number}", 1, quarantine=True)
        (poison,) = quarantine.take(1)
        seen.append((poison.attempt, poison.doom))
        if number < 2:
            supervisor.dead(quarantine, [poison.seq], "killed by signal 11")
    assert seen == [(1, ""), (2, ""), (3, "killed its worker 2 times while it was alone: killed by signal 11")]
    quarantine.settle([poison], b"FALSE")
    assert req.recv() == [b"FALSE"]


def test_a_retry_comes_again_after_its_delay(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    worker = supervisor.attach("W", 10)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    (delivery,) = worker.take(1)
    worker.tell("retry", [(delivery.seq, 0.05, "deadlock")])
    (again,) = worker.take(1)
    assert (again.seq, again.attempt, again.received_ns) == (delivery.seq, 2, delivery.received_ns)
    worker.settle([again])
    assert req.recv() == [b"TRUE"]


def test_what_is_given_back_goes_to_another(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    first = supervisor.attach("W1", 1)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    (delivery,) = first.take(1)
    second = supervisor.attach("W2", 10)
    first.tell("back", [delivery.seq])
    (other,) = second.take(1)
    assert other == delivery
    second.settle([other])
    assert req.recv() == [b"TRUE"]


@pytest.mark.parametrize(
    "nonsense",
    [
        encode(("settled", [("x", DONE, b"")])),
        encode(("settled", [(1, DONE, None)])),
        encode(("dance", 1)),
        encode(("credit", "many")),
        b"\x02\0\0\0\xc1\xc1",
    ],
)
def test_a_worker_that_speaks_nonsense_is_cut_off_and_harms_nobody(serving: tuple[Supervisor, str], client: Make, nonsense: bytes) -> None:
    supervisor, endpoint = serving
    first = supervisor.attach("W1", 1)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    first.take(1)
    first.sock.sendall(nonsense)
    assert first.sock.recv(10) == b""
    supervisor.dead(first)
    supervisor.attach("W2", 1).serve(1)
    assert req.recv() == [b"1"]
    assert "worker.broken" in [line["event"] for line in supervisor.log()]


def test_a_worker_that_reads_nothing_holds_up_nobody(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    stuck = supervisor.attach("W1", 1000)
    dealer = client(zmq.DEALER, endpoint)
    body = bytes(100_000)
    for _ in range(50):
        dealer.send(body)
    supervisor.reaches(received=50)
    waiting = supervisor.tally()["waiting"]
    assert waiting > 20  # it was not given more than it takes
    second = supervisor.attach("W2", 1000)
    second.serve(waiting)
    assert len([dealer.recv() for _ in range(waiting)]) == waiting
    stuck.serve(50 - waiting)
    assert len([dealer.recv() for _ in range(50 - waiting)]) == 50 - waiting


def test_many_messages_survive_many_deaths(serving: tuple[Supervisor, str], client: Make) -> None:
    supervisor, endpoint = serving
    total = 2000
    dealer = client(zmq.DEALER, endpoint, SNDHWM=0, RCVHWM=0)
    for body in numbered(total):
        dealer.send(body)
    settled: list[bytes] = []
    for number in range(20):
        worker = supervisor.attach(f"W{number}", 60)
        taken = worker.take(50)
        worker.tell("settled", [(delivery.seq, DONE, delivery.body) for delivery in taken[:25]])
        settled += bodies(taken[:25])
        worker.sock.close()
        supervisor.dead(worker)
    last = supervisor.attach("last", 10_000)
    settled += bodies(last.serve(total - 500))
    assert sorted(settled) == sorted(numbered(total))
    assert sorted(dealer.recv()[0] for _ in range(total)) == sorted(numbered(total))
    supervisor.reaches(held=0, answered=total, received=total, suspects=0)


def test_a_worker_is_attached_once_and_to_a_job_that_is_there(serving: tuple[Supervisor, str]) -> None:
    supervisor, _endpoint = serving
    supervisor.attach("W", 1)
    twice: Worker = supervisor.attach("W")
    assert twice.sock.recv(1) == b""
    lost: Worker = supervisor.attach("V", row=7)
    assert lost.sock.recv(1) == b""
