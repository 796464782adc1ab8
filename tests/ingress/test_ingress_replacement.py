"""One ingress takes the place of another: who is there stays with the old one, who comes meets the new one, nothing is lost."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from ingress_kit import Client, Supervisor, Worker, bodies, numbered, until

from holdfast.linux.code import ingress_digest
from holdfast.linux.steering import release, steer

Make = Callable[..., Client]
CONNECTIONS = 50


@pytest.fixture
def heir(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor with another ingress; the same one in truth."""
    made = Supervisor(tmp_path / "heir")
    yield made
    made.close()


def joinable(port: int = 0) -> tuple[str, socket.socket]:
    """A listener as the supervisor binds it: the first one alone, later ones beside it. It does not listen yet."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return f"tcp://127.0.0.1:{listener.getsockname()[1]}", listener


def replace_tcp(supervisor: Supervisor, heir: Supervisor, endpoint: str, old: socket.socket) -> tuple[Worker, socket.socket]:
    """What an upgrade does for one TCP door, up to `retire-all`; the heir's worker and listener."""
    new = joinable(old.getsockname()[1])[1]
    steer(old, 0)
    new.listen(1024)
    heir.listen(place=(endpoint, new))
    worker = heir.attach("heir's", 1000)
    heir.tell("open")
    heir.obeyed()
    steer(old, 1)
    supervisor.tell("retire-all")
    return worker, new


def test_the_first_word_tells_which_code_it_runs(supervisor: Supervisor) -> None:
    supervisor.listen()
    assert supervisor.first() == {"say": "hello", "digest": ingress_digest()}


def test_new_connections_meet_the_new_one_and_old_ones_are_served_by_the_old_one(
    supervisor: Supervisor, heir: Supervisor, client: Make
) -> None:
    endpoint, old = joinable()
    old.listen(1024)
    supervisor.listen(place=(endpoint, old))
    supervisor.tell("open")
    first = supervisor.attach("W", 1000)
    req, dealer = client(zmq.REQ, endpoint), client(zmq.DEALER, endpoint)
    req.send(b"before")
    for body in numbered(20):
        dealer.send(body)
    supervisor.reaches(received=21)
    second, new = replace_tcp(supervisor, heir, endpoint, old)

    comers = [client(zmq.REQ, endpoint) for _ in range(CONNECTIONS)]
    for comer in comers:
        comer.send(b"hello")
    second.serve(CONNECTIONS)
    assert [comer.recv() for comer in comers] == [[b"hello"]] * CONNECTIONS
    heir.reaches(clients=CONNECTIONS, received=CONNECTIONS)

    first.serve(21)  # held when it was replaced
    assert req.recv() == [b"before"]
    assert [dealer.recv()[0] for _ in range(20)] == list(numbered(20))
    for number in range(20):
        req.send(b"%d" % number)
        first.serve(1)
        assert req.recv() == [b"%d" % number]
    supervisor.reaches(clients=2, received=41, answered=41, gone=0, dropped=0)

    req.close()
    supervisor.reaches(clients=1)
    assert "ingress.drained" not in [line["event"] for line in supervisor.log()]
    dealer.send(b"last")
    (last,) = first.take(1)
    first.settle([last])
    assert dealer.recv() == [b"TRUE"]
    dealer.close()
    supervisor.hear("retired")
    supervisor.hear("drained")
    assert supervisor.process.poll() is None  # it waits to be told
    supervisor.tell("leave")
    assert supervisor.exits() == 0

    old.close()
    release(new)
    late = client(zmq.REQ, endpoint)
    late.send(b"late")
    comers[0].send(b"still here")
    assert sorted(bodies(second.serve(2))) == [b"late", b"still here"]
    assert (late.recv(), comers[0].recv()) == ([b"late"], [b"still here"])
    heir.reaches(received=CONNECTIONS + 2, answered=CONNECTIONS + 2, gone=0)


def test_who_has_connected_and_is_not_accepted_yet_is_served_by_the_old_one(supervisor: Supervisor, client: Make) -> None:
    endpoint, old = joinable()
    old.listen(1024)
    waiting = [client(zmq.REQ, endpoint) for _ in range(5)]
    for one in waiting:
        one.send(b"early")
    until(lambda: in_backlog(old) == 5, "five connections that nobody has accepted")
    os.kill(supervisor.process.pid, signal.SIGSTOP)  # so that it hears all at once, before it accepts anybody
    packet = {"job": "J0", "row": 0, "transport": "rep", "endpoint": endpoint, "limits": {}}
    supervisor.tell("listen", [old.fileno()], **packet)
    supervisor.tell("open")
    first = supervisor.attach("W", 100)
    supervisor.tell("retire-all")
    os.kill(supervisor.process.pid, signal.SIGCONT)
    first.serve(5)
    assert [one.recv() for one in waiting] == [[b"early"]] * 5
    for one in waiting:
        one.close()
    supervisor.hear("drained")
    old.close()


def in_backlog(listener: socket.socket) -> int:
    """Connections that wait to be accepted: `tcpi_unacked` of a listener."""
    return int(struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0])


def test_on_a_unix_socket_the_path_moves_and_connections_stay(supervisor: Supervisor, heir: Supervisor, client: Make) -> None:
    place = supervisor.ipc("s")
    endpoint = supervisor.listen(place=place)
    supervisor.tell("open")
    first = supervisor.attach("W", 100)
    inside = client(zmq.REQ, endpoint)
    inside.send(b"before")
    supervisor.reaches(held=1)

    new = supervisor.ipc("s.new")[1]
    heir.listen(place=(endpoint, new))
    second = heir.attach("heir's", 100)
    heir.tell("open")
    os.rename(supervisor.folder / "s.new", supervisor.folder / "s")
    supervisor.tell("retire-all")
    comers = [client(zmq.REQ, endpoint) for _ in range(CONNECTIONS)]
    for comer in comers:
        comer.send(b"hello")
    second.serve(CONNECTIONS)
    assert [comer.recv() for comer in comers] == [[b"hello"]] * CONNECTIONS
    first.serve(1)
    assert inside.recv() == [b"before"]
    inside.send(b"again")
    first.serve(1)
    assert inside.recv() == [b"again"]
    inside.close()
    supervisor.hear("drained")
    supervisor.tell("leave")
    assert supervisor.exits() == 0
    assert (supervisor.folder / "s").is_socket()  # its end takes nothing away from the new one
    late = client(zmq.REQ, endpoint)
    late.send(b"late")
    second.serve(1)
    assert late.recv() == [b"late"]
    heir.reaches(clients=CONNECTIONS + 1, answered=CONNECTIONS + 1)


def test_one_that_retires_can_still_be_drained_and_told_to_leave(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    taken = worker.take(1)
    supervisor.tell("retire-all")
    supervisor.tell("drain")
    worker.settle(taken)
    supervisor.hear("drained")
    assert req.recv() == [b"TRUE"]
    supervisor.tell("leave")
    assert supervisor.exits() == 0


def test_a_removed_job_does_not_keep_one_that_retires(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen()
    supervisor.tell("open")
    client(zmq.REQ, endpoint)
    supervisor.reaches(clients=1)
    supervisor.tell("retire-all")
    supervisor.tell("remove", job="J0")
    supervisor.hear("removed")
    supervisor.hear("drained")
