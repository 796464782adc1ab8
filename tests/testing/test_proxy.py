"""The proxy does to a connection what it says, and nothing else."""

import socket
import threading
from collections.abc import Iterator

import pytest

from holdfast.testing import Proxy, eventually


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        with one:
            try:
                while data := one.recv(1000):
                    self.got += data
                    one.sendall(data)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port) as one:
        yield one


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as one:
        yield one


def read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return data


def _talk(proxy: Proxy) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as other:
        other.sendall(b"x")
        return other.recv(1)


def test_it_passes_everything_on_and_ends_as_the_client_ends(client: socket.socket, proxy: Proxy) -> None:
    body = bytes(range(256)) * 1000
    threading.Thread(target=lambda: (client.sendall(body), client.shutdown(socket.SHUT_WR)), daemon=True).start()
    assert read(client, len(body) + 1) == body
    eventually(lambda: proxy.connections == 0, "the connection is over")


def test_cut_resets_and_refuses(client: socket.socket, proxy: Proxy) -> None:
    client.sendall(b"a")
    assert read(client, 1) == b"a"
    proxy.cut(refuse=True)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(OSError):
        _talk(proxy)
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as other:
        other.sendall(b"b")
        assert read(other, 1) == b"b"


def test_who_is_let_in_while_it_is_cut_is_refused(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection

    def cut_meanwhile(place: tuple[str, int], patience: float) -> socket.socket:
        if place[1] != proxy.port:
            proxy.cut(refuse=True)
        return connect(place, patience)

    monkeypatch.setattr(socket, "create_connection", cut_meanwhile)
    with pytest.raises(OSError):
        _talk(proxy)
    assert proxy.connections == 0


def test_a_stalled_connection_goes_on_where_it_was(client: socket.socket, proxy: Proxy, echo: Echo) -> None:
    proxy.stall()
    client.sendall(b"held")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert echo.got == b""
    client.settimeout(10)
    proxy.heal()
    assert read(client, 4) == b"held"


def test_slow_answers_come_late(client: socket.socket, proxy: Proxy, echo: Echo) -> None:
    proxy.slow(3600)
    client.sendall(b"late")
    eventually(lambda: echo.got == b"late", "the server has it")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(10)
    proxy.heal()
    client.sendall(b"!")
    assert read(client, 5) == b"late!"


def test_truncate_lets_so_many_bytes_back(client: socket.socket, proxy: Proxy) -> None:
    proxy.truncate(3)
    client.sendall(b"abcdef")
    with pytest.raises(ConnectionResetError):
        read(client, 6)


@pytest.mark.parametrize("delivered", [True, False])
def test_cut_at_a_word_before_or_after_the_server_got_it(client: socket.socket, proxy: Proxy, echo: Echo, delivered: bool) -> None:
    proxy.cut_at(b"COMMIT", delivered=delivered)
    client.sendall(b"one")
    assert read(client, 3) == b"one"
    client.sendall(b"COMMIT")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert proxy.strikes == 1
    assert echo.got == (b"oneCOMMIT" if delivered else b"one")


@pytest.mark.parametrize("delivered", [False, True])
def test_stall_at_a_word_before_or_after_the_server_got_it(client: socket.socket, proxy: Proxy, echo: Echo, delivered: bool) -> None:
    proxy.stall_at(b"COMMIT", delivered=delivered)
    client.sendall(b"abc")
    assert read(client, 3) == b"abc"
    client.sendall(b"COMMIT")
    eventually(lambda: proxy.strikes == 1, "it was struck")
    if delivered:
        eventually(lambda: echo.got == b"abcCOMMIT", "the server has got it")
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert echo.got == (b"abcCOMMIT" if delivered else b"abc")
    proxy.heal()
    client.settimeout(10)
    assert read(client, 6) == b"COMMIT"
