"""A TCP proxy that cuts, stalls, slows and truncates: what networks do to the daemon's connections, on purpose."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Literal

Direction = Literal["up", "down"]  # to the server, to the client

_AT_ONCE = 1 << 16


class Proxy:
    """Listens on `port` of 127.0.0.1 and passes everything on to a server. As a context manager it ends with its block.

    `cut`, `stall`, `slow` and `truncate` hold for the connections that there are and for those to come, until `heal`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._links: set[_Link] = set()
        self._stalled = False
        self._refusing = False
        self._closed = False
        self._delay = 0.0
        self._left: int | None = None
        self._strike: tuple[bytes, bool, bool] | None = None  # at which word, delivered or not, and whether it stalls
        self.strikes = 0
        self.accepted = 0
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # What can be done to connections

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; with `refuse` the next ones too, until `heal`."""
        with self._changed:
            self._refusing = refuse
            links = list(self._links)
        for link in links:
            link.reset()

    def stall(self) -> None:
        """Let nothing through any more, without a word to either end."""
        with self._changed:
            self._stalled = True

    def slow(self, seconds: float) -> None:
        """Hold each piece that comes back from the server for so long."""
        with self._changed:
            self._delay = seconds

    def truncate(self, size: int) -> None:
        """Let so many more bytes come back from the server, over all connections, then reset the connection they came on."""
        with self._changed:
            self._left = size

    def cut_at(self, word: bytes, *, delivered: bool) -> None:
        """The next time a client sends these bytes: reset its connection. `delivered`: the server gets them, and its answer is lost."""
        with self._changed:
            self._strike = (word, delivered, False)

    def stall_at(self, word: bytes, *, delivered: bool) -> None:
        """The next time a client sends these bytes: `stall`. `delivered`: the server gets them, and its answer is held back."""
        with self._changed:
            self._strike = (word, delivered, True)

    def heal(self) -> None:
        """Pass everything on again, what was held back first."""
        with self._changed:
            self._stalled = self._refusing = False
            self._delay, self._left, self._strike = 0.0, None, None
            self._changed.notify_all()

    def close(self) -> None:
        """Reset everything, stop listening."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def connections(self) -> int:
        """How many are open."""
        with self._changed:
            return len(self._links)

    # How it is done

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing or self._closed:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._server, 10)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server)
            if not self._admit(link):
                link.reset()
                continue
            for source, target, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pump, args=(link, source, target, direction), name="proxy", daemon=True).start()

    def _admit(self, link: _Link) -> bool:
        """False when everything was cut while the server was asked."""
        with self._changed:
            if self._refusing or self._closed:
                return False
            self._links.add(link)
            self.accepted += 1
            return True

    def _pump(self, link: _Link, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        try:
            while data := source.recv(_AT_ONCE):
                if not self._pass(link, data, target, direction):
                    break
            with self._changed:  # a black hole does not tell of an end either
                self._changed.wait_for(lambda: not self._stalled or self._closed)
            link.end(target)
        except OSError:
            link.reset()
        finally:
            if link.done():
                with self._changed:
                    self._links.discard(link)

    def _pass(self, link: _Link, data: bytes, target: socket.socket, direction: Direction) -> bool:
        """Pass a piece on, or do to it what was asked for; False when the connection was reset."""
        with self._changed:
            self._changed.wait_for(lambda: not self._stalled or link.gone or self._closed)
            delay = self._delay if direction == "down" else 0.0
            if delay:
                self._changed.wait_for(lambda: not self._delay or link.gone or self._closed, delay)
            strike = self._struck(data) if direction == "up" else None
            if direction == "down" and link.deaf:
                strike = False
            cut = self._counted(data) if direction == "down" else None
        if cut is not None:
            target.sendall(data[:cut])
            return link.reset()
        if strike is False:
            return link.reset()
        if strike is True:
            link.deaf = True  # the answer is the sign that the server has done it; it may come before this thread goes on
        target.sendall(data)
        return True

    def _struck(self, data: bytes) -> bool | None:
        """Whether this piece is what `cut_at` waits for, and if so whether it is delivered. What `stall_at` holds back waits here."""
        if self._strike is None or self._strike[0] not in data:
            return None
        (_word, delivered, stalls), self._strike = self._strike, None
        self.strikes += 1
        if not stalls:
            return delivered
        self._stalled = True
        if not delivered:
            self._changed.wait_for(lambda: not self._stalled or self._closed)
        return None

    def _counted(self, data: bytes) -> int | None:
        """After how many bytes of this piece to cut; None for not at all."""
        if self._left is None:
            return None
        left, self._left = self._left, max(0, self._left - len(data))
        if left > len(data):
            return None
        self._left = None
        return left


class _Link:
    """Both ends of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._ends = (client, server)
        self.gone = False
        self.deaf = False
        self._half = 0
        self._lock = threading.Lock()

    def reset(self) -> bool:
        """Both ends see a reset; False, for `_pass`."""
        self.gone = True
        for end in self._ends:
            _reset(end)
        return False

    def end(self, target: socket.socket) -> None:
        """One direction has come to its end."""
        if not self.gone:
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_WR)

    def done(self) -> bool:
        """Called once by each direction; True when both are over, and everything closed."""
        with self._lock:
            self._half += 1
            over = self._half == 2
        if over:
            for end in self._ends:
                end.close()
        return over


def _reset(sock: socket.socket) -> None:
    """Close with RST, as a machine does that has forgotten the connection; a thread that reads it wakes up."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
    sock.close()
