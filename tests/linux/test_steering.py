"""Which of two listeners gets a new connection: real sockets, the real kernel."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from doors_kit import shuts_doors
from holdfast.linux import door
from holdfast.linux.steering import release, steer

Join = Callable[[], socket.socket]
CONNECTIONS = 50


@pytest.fixture
def group() -> Iterator[tuple[socket.socket, Join]]:
    """The first listener, bound as the supervisor does it, and how another one joins it; both not listening yet."""
    made: list[socket.socket] = []
    address = ("127.0.0.1", 0)

    def join() -> socket.socket:
        sock = socket.socket()
        made.append(sock)
        if made[1:]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setblocking(False)
        return sock

    first = join()
    address = first.getsockname()
    first.listen(CONNECTIONS)
    yield first, join
    for sock in made:
        sock.close()


def connected(*listeners: socket.socket) -> list[int]:
    """How many of 50 new connections each of these gets."""
    clients = [socket.create_connection(listeners[0].getsockname(), timeout=20) for _ in range(CONNECTIONS)]
    counts = [0] * len(listeners)
    while sum(counts) < CONNECTIONS:  # a connection is there for its client a moment before it is for its listener
        assert select.select(listeners, [], [], 20)[0], f"of {CONNECTIONS} only {counts}"
        counts = [count + len(list(accepted(listener))) for count, listener in zip(counts, listeners, strict=True)]
    for client in clients:
        client.close()
    return counts


def accepted(listener: socket.socket) -> Iterator[None]:
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return
        yield


def test_the_one_that_is_named_gets_all(group: tuple[socket.socket, Join]) -> None:
    old, join = group
    steer(old, 0)
    new = join()
    assert connected(old) == [CONNECTIONS]  # one that is only bound is no member
    new.listen(CONNECTIONS)
    assert connected(old, new) == [CONNECTIONS, 0]
    steer(old, 1)
    assert connected(old, new) == [0, CONNECTIONS]
    steer(new, 0)
    assert connected(old, new) == [CONNECTIONS, 0]


def test_when_the_old_one_has_gone_the_new_one_is_the_first(group: tuple[socket.socket, Join]) -> None:
    old, join = group
    steer(old, 0)
    new = join()
    new.listen(CONNECTIONS)
    steer(old, 1)
    old.close()
    assert connected(new) == [CONNECTIONS]  # the program names nobody: the kernel chooses
    third = join()
    third.listen(CONNECTIONS)
    assert connected(new, third) == [0, CONNECTIONS]  # the leftover program: what `release` is for
    steer(new, 0)
    assert connected(new, third) == [CONNECTIONS, 0]


def test_when_the_new_one_has_gone_the_old_one_is_back(group: tuple[socket.socket, Join]) -> None:
    old, join = group
    steer(old, 0)
    new = join()
    new.listen(CONNECTIONS)
    steer(old, 1)
    new.close()
    assert connected(old) == [CONNECTIONS]


def test_released_the_kernel_chooses(group: tuple[socket.socket, Join]) -> None:
    old, join = group
    release(old)  # there is no program yet
    steer(old, 0)
    new = join()
    new.listen(CONNECTIONS)
    release(new)
    both = connected(old, new)
    assert sum(both) == CONNECTIONS
    assert 0 not in both


def test_a_unix_socket_cannot_be_steered() -> None:
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError):
        steer(sock, 0)


@pytest.mark.skipif(not shuts_doors(), reason="this kernel lets nobody but root shut a door")
def test_a_shut_door_lets_those_in_who_are_there_and_nobody_else(group: tuple[socket.socket, Join]) -> None:
    listener, _join = group
    with socket.create_connection(listener.getsockname(), timeout=20) as early, socket.socket() as late:
        door.shut(listener)
        late.setblocking(False)
        assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert select.select([listener], [], [], 20)[0]
        inside, _address = listener.accept()
        with inside:
            early.sendall(b"hello")
            inside.settimeout(20)
            assert inside.recv(10) == b"hello"
        with pytest.raises(BlockingIOError):
            listener.accept()
        door.open_again(listener)
        assert select.select([], [late], [], 20)[1]  # it has tried again
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert select.select([listener], [], [], 20)[0]
        assert len(list(accepted(listener))) == 1
