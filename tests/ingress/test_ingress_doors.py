"""Doors of a running job: opened, retired, with other limits; jobs that are removed. Nobody who is there notices."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import zmq
from ingress_kit import Client, Supervisor, bodies, numbered, until

from doors_kit import shuts_doors
from holdfast.model import tally
from holdfast.model.delivery import DONE

Make = Callable[..., Client]
by_a_door = pytest.mark.skipif(not shuts_doors(), reason="this kernel lets nobody but root shut a door: tests/ingress/test_clients.py")


def test_two_doors_of_a_job_share_its_workers_and_answer_each_its_own(supervisor: Supervisor, client: Make) -> None:
    first = supervisor.listen(door="J0#1")
    supervisor.tell("open")
    worker = supervisor.attach("W", 1000)
    one = client(zmq.DEALER, first, IDENTITY=b"till")
    one.send(b"first")
    supervisor.reaches(held=1)
    second = supervisor.listen(door="J0#2")
    two = client(zmq.DEALER, second, IDENTITY=b"till")  # the same identity at another door is somebody else
    supervisor.reaches(clients=2)
    two.send(b"early")
    one.send(b"again")
    assert sorted(bodies(worker.serve(2))) == [b"again", b"first"]  # the second door is not open yet
    supervisor.tell("open")
    worker.serve(1)
    for body in numbered(100):
        one.send(b"one " + body)
        two.send(b"two " + body)
    worker.serve(200)
    assert [one.recv()[0] for _ in range(102)] == [b"first", b"again", *(b"one " + body for body in numbered(100))]
    assert [two.recv()[0] for _ in range(101)] == [b"early", *(b"two " + body for body in numbered(100))]
    supervisor.reaches(received=203, answered=203, held=0, clients=2)


def test_a_full_job_takes_turns_between_its_doors(supervisor: Supervisor, client: Make) -> None:
    clients = [client(zmq.DEALER, supervisor.listen(door=f"J0#{number}", in_flight=1)) for number in range(2)]
    for number, dealer in enumerate(clients):
        for _ in range(50):
            dealer.send(b"%d" % number)
    supervisor.reaches(clients=2)
    supervisor.tell("open")
    served = bodies(supervisor.attach("W", 10).serve(30))
    assert min(served.count(b"0"), served.count(b"1")) >= 5


@by_a_door
def test_a_retired_door_serves_who_is_there_and_lets_nobody_in(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(door="old")
    supervisor.tell("open")
    worker = supervisor.attach("W", 100)
    inside = client(zmq.REQ, endpoint)
    inside.send(b"before")
    worker.serve(1)
    assert inside.recv() == [b"before"]
    new = supervisor.listen(door="new")
    supervisor.tell("open")
    supervisor.tell("retire", door="old")
    supervisor.obeyed()
    outside, other = client(zmq.REQ, endpoint), client(zmq.REQ, new)
    outside.send(b"too late")
    for number in range(5):
        inside.send(b"%d" % number)
        other.send(b"other")
        worker.serve(2)
        assert (inside.recv(), other.recv()) == ([b"%d" % number], [b"other"])
    assert outside.has_nothing()  # it sees no error: it is still connecting
    supervisor.reaches(clients=2, received=11)
    inside.send(b"last")
    (last,) = worker.take(1)
    inside.close()
    supervisor.reaches(clients=1)
    other.send(b"after it")
    worker.tell("settled", [(delivery.seq, DONE, delivery.body) for delivery in worker.take(1)])
    assert other.recv() == [b"after it"]
    assert outside.has_nothing(1200)  # longer than a door waits for those who are half way in
    assert not [line for line in supervisor.log() if line["event"] == "door.retired"]  # its message is still held
    worker.settle([last])
    assert supervisor.hear("retired") == {"say": "retired", "door": "old"}
    before = supervisor.reaches(gone=1, clients=1, held=0)
    other.send(b"still")
    worker.serve(1)
    assert other.recv() == [b"still"]
    supervisor.reaches(received=before["received"] + 1, answered=before["answered"] + 1, gone=1)  # what it had counted stays


def test_a_retired_door_without_clients_is_closed(supervisor: Supervisor, client: Make) -> None:
    place = supervisor.tcp()
    supervisor.listen(place=place, door="old")
    supervisor.tell("open")
    supervisor.tell("retire", door="old")
    supervisor.hear("retired")
    place[1].close()  # ours was the last: the address is free
    until(lambda: is_refused(int(place[0].rpartition(":")[2])), "the address is free")  # libzmq closes it in a thread of its own
    supervisor.tell("retire", door="old")
    assert supervisor.hear("retired") == {"say": "retired", "door": "old"}
    endpoint = supervisor.listen(door="old")  # the name is free as well
    supervisor.tell("open")
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    supervisor.attach("W", 1).serve(1)
    assert req.recv() == [b"1"]


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    except ConnectionRefusedError:
        return True
    return False


@by_a_door
def test_a_retired_door_at_its_limit_does_not_open_again_when_a_client_leaves(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(door="old", max_clients=2)
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    stays, leaves = client(zmq.REQ, endpoint), client(zmq.REQ, endpoint)
    supervisor.reaches(clients=2)
    late = client(zmq.REQ, endpoint)
    late.send(b"late")
    supervisor.tell("retire", door="old")
    supervisor.tell("limits", job="J0", limits={"max_clients": 10})
    supervisor.obeyed()
    leaves.close()
    supervisor.reaches(clients=1)
    assert late.has_nothing(1500)  # it has tried again by now
    stays.send(b"1")
    assert bodies(worker.serve(1)) == [b"1"]
    supervisor.reaches(clients=1, received=1)


def test_a_door_that_was_never_open_serves_those_who_came_when_it_retires(supervisor: Supervisor, client: Make) -> None:
    supervisor.listen(door="old")
    supervisor.tell("open")
    req = client(zmq.REQ, supervisor.listen(door="new"))
    req.send(b"1")
    supervisor.reaches(clients=1)
    supervisor.tell("retire", door="new")
    supervisor.attach("W", 1).serve(1)
    assert req.recv() == [b"1"]
    req.close()
    supervisor.hear("retired")


def test_a_retired_door_is_not_read_while_draining_and_goes_on_after(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(door="old")
    supervisor.tell("open")
    req = client(zmq.REQ, endpoint)
    supervisor.reaches(clients=1)
    supervisor.tell("drain")
    supervisor.tell("retire", door="old")
    supervisor.hear("drained")
    req.send(b"1")
    assert req.has_nothing()
    supervisor.tell("open")
    supervisor.attach("W", 1).serve(1)
    assert req.recv() == [b"1"]


@pytest.mark.parametrize("kind", ["pull", "sub"])
def test_a_one_way_door_retires_when_those_who_send_have_left(supervisor: Supervisor, client: Make, kind: str) -> None:
    endpoint = supervisor.listen(kind, door="old")
    supervisor.tell("open")
    sender = client(zmq.PUSH if kind == "pull" else zmq.PUB, endpoint)
    worker = supervisor.attach("W", 10_000)

    def arrives(body: bytes) -> None:
        def arrived() -> bool:
            sender.send(body)
            return not worker.has_nothing()

        until(arrived, "a message")
        worker.serve(1)

    arrives(b"before")
    supervisor.tell("retire", door="old")
    supervisor.obeyed()
    arrives(b"after")
    sender.close()

    def settled() -> bool:
        while not worker.has_nothing():
            worker.serve(1)
        return "door.retired" in [line["event"] for line in supervisor.log()]

    until(settled, "its end")
    supervisor.hear("retired")
    supervisor.reaches(held=0)


def test_a_connecting_door_retires_with_what_has_come(supervisor: Supervisor, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    push = context.socket(zmq.PUSH)
    endpoint = f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}"
    supervisor.tell("listen", job="J0", door="old", row=0, transport="pull", endpoint=endpoint, connect=True, limits={"in_flight": 10})
    supervisor.hear("listening")
    for body in numbered(12):
        push.send(body)
    supervisor.tell("open")
    supervisor.reaches(held=10)
    supervisor.tell("retire", door="old")
    supervisor.obeyed()
    assert bodies(supervisor.attach("W", 10).serve(12)) == list(numbered(12))
    supervisor.hear("retired")
    push.close(0)


@by_a_door
def test_new_limits_hold_at_once(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(in_flight=10, max_clients=1, crash_limit=5)
    supervisor.tell("open")
    dealer = client(zmq.DEALER, endpoint)
    for body in numbered(30):
        dealer.send(body)
    supervisor.reaches(held=10, clients=1)
    late = client(zmq.REQ, endpoint)
    late.send(b"late")
    assert late.has_nothing(100)
    supervisor.tell("limits", job="J0", limits={"in_flight": 31, "max_clients": 2, "crash_limit": 1})
    supervisor.reaches(held=31, clients=2)
    supervisor.tell("limits", job="J0", limits={"in_flight": 2, "max_clients": 1, "crash_limit": 1})
    supervisor.obeyed()
    dealer.send(b"30")
    worker = supervisor.attach("W", 29)
    settled = worker.take(29)
    worker.settle(settled)
    supervisor.reaches(held=2, clients=2, received=31)
    worker.credit(1)
    (poison,) = worker.take(1)
    supervisor.dead(worker, [poison.seq], "killed by signal 11")
    quarantine = supervisor.attach("Q", 1, quarantine=True)
    assert quarantine.take(1)[0].doom == ""
    supervisor.dead(quarantine, [poison.seq], "killed by signal 11")
    assert "1 times" in supervisor.attach("Q2", 1, quarantine=True).take(1)[0].doom
    supervisor.tell("limits", job="nobody", limits={})
    supervisor.obeyed()


def test_a_failure_leaves_everything_as_it_was(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(door="J0#1", in_flight=1)
    supervisor.tell("open")
    packet: dict[str, Any] = {"job": "J0", "row": 0, "transport": "rep", "endpoint": "tcp://nowhere", "limits": {"in_flight": 100}}
    supervisor.tell("listen", door="J0#2", **packet)
    failed = supervisor.hear("failed")
    assert (failed["job"], failed["door"]) == ("J0", "J0#2")
    with supervisor.tcp()[1] as listener:
        supervisor.tell("listen", [listener.fileno()], door="J0#1", **packet)
    assert "there is a door 'J0#1' already" in supervisor.hear("failed")["reason"]
    supervisor.tell("listen", door="J1#1", **{**packet, "job": "J1", "row": tally.ROWS})
    assert f"row {tally.ROWS} of the tally is asked for, and it has {tally.ROWS}" in supervisor.hear("failed")["reason"]
    assert supervisor.attach("lost", row=1).sock.recv(1) == b""  # no job has been made
    dealer = client(zmq.DEALER, endpoint)
    for body in numbered(3):
        dealer.send(body)
    supervisor.reaches(held=1, received=1)
    assert bodies(supervisor.attach("W", 10).serve(3)) == list(numbered(3))


def test_a_removed_job_settles_what_it_holds_and_reads_nothing(supervisor: Supervisor, client: Make) -> None:
    first, other = supervisor.listen(), supervisor.listen(row=1)
    supervisor.tell("open")
    worker, witness = supervisor.attach("W", 10), supervisor.attach("V", 1, row=1)
    inside, outside, stays = client(zmq.REQ, first), client(zmq.REQ, first), client(zmq.REQ, other)
    inside.send(b"1")
    taken = worker.take(1)
    supervisor.tell("remove", job="J0")
    supervisor.obeyed()
    outside.send(b"2")
    assert outside.has_nothing(100)
    assert worker.has_nothing()
    assert supervisor.tally()["received"] == 1
    worker.settle(taken)
    assert inside.recv() == [b"TRUE"]
    assert supervisor.hear("removed") == {"say": "removed", "job": "J0"}
    assert worker.sock.recv(1) == b""
    assert set(supervisor.tally().values()) == {0}
    assert supervisor.attach("late").sock.recv(1) == b""
    stays.send(b"3")
    witness.serve(1)
    assert stays.recv() == [b"3"]
    supervisor.tell("remove", job="J0")
    supervisor.hear("removed")
    supervisor.dead(worker)
    again = supervisor.listen(row=0)
    supervisor.tell("open")
    req = client(zmq.REQ, again)
    req.send(b"4")
    supervisor.attach("W2", 1).serve(1)
    assert req.recv() == [b"4"]
    supervisor.reaches(received=1, answered=1)


def test_a_job_that_is_listened_for_again_is_not_removed(supervisor: Supervisor, client: Make) -> None:
    endpoint = supervisor.listen(door="J0#1")
    supervisor.tell("open")
    worker = supervisor.attach("W", 10)
    req = client(zmq.REQ, endpoint)
    req.send(b"1")
    taken = worker.take(1)
    supervisor.tell("remove", job="J0")
    again = supervisor.listen(door="J0#2")
    supervisor.tell("open")
    worker.settle(taken)
    assert req.recv() == [b"TRUE"]
    other = client(zmq.REQ, again)
    other.send(b"2")
    req.send(b"3")
    assert sorted(bodies(worker.serve(2))) == [b"2", b"3"]
    assert (req.recv(), other.recv()) == ([b"3"], [b"2"])
