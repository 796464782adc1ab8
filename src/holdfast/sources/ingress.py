"""The source behind an ingress: messages that brokerless clients sent, over the data channel in `model.delivery`'s frames."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from holdfast.model.delivery import Decoder, Delivery, encode
from holdfast.sources.base import Settlement

_READ = 1 << 18
_ANSWERING = frozenset({"zmq+rep"})


class IngressSource:
    """One worker's data channel.

    Outcomes are sent from the thread that has them. What the socket does not take at once is kept, in order, until the I/O loop
    flushes it; `wake` tells the loop that there is something to flush. Once the ingress is gone outcomes go nowhere: the next
    ingress has another epoch and knows none of these messages.
    """

    def __init__(self, sock: socket.socket, *, url: str, epoch: int, wake: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.epoch = epoch
        self.name = shown(url)
        self.answers = url.partition(":")[0] in _ANSWERING
        self._socket = sock
        self._wake = wake
        self._decoder = Decoder(deliveries=True)
        self._lock = threading.Lock()
        self._unsent = bytearray()
        self._gone = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def wants_write(self) -> bool:
        return bool(self._unsent)

    def receive(self) -> Sequence[Delivery]:
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return ()
        except ConnectionResetError:
            raise EOFError from None
        if not data:
            raise EOFError
        return [delivery for kind, deliveries in self._decoder.feed(data) if kind == "m" for delivery in deliveries]

    def flush(self) -> None:
        with self._lock:
            if self._unsent:
                del self._unsent[: self._send_now(self._unsent)]

    def due(self) -> float | None:
        return None

    def grant(self, messages: int) -> None:
        self._send("credit", messages)

    def settle(self, settlements: Sequence[Settlement]) -> None:
        self._send("settled", settlements)

    def retry(self, seq: int, delay: float, reason: str) -> None:
        self._send("retry", [(seq, delay, reason)])

    def give_back(self, seqs: Sequence[int]) -> None:
        self._send("back", seqs)

    def finish(self, until: float) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while self._unsent and (left := until - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.flush()

    def close(self) -> None:
        with self._lock:
            self._gone = True
            self._unsent.clear()
            self._socket.close()

    def _send(self, kind: str, what: Any) -> None:
        data = encode((kind, what))
        with self._lock:
            if self._gone:
                return
            if not self._unsent:
                sent = self._send_now(data)
                if sent == len(data):
                    return
                data = data[sent:]
            self._unsent += data
        self._wake()

    def _send_now(self, data: bytes | bytearray) -> int:
        """Bytes that are off our hands."""
        with contextlib.suppress(BlockingIOError):
            try:
                return self._socket.send(data, socket.MSG_NOSIGNAL)
            except (BrokenPipeError, ConnectionResetError):
                self._gone = True
                return len(data)
        return 0


def shown(url: str) -> str:
    """The URL without user and password, which a message's `source` need not carry around."""
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{mark}{host.rpartition('@')[2]}{slash}{path}"
