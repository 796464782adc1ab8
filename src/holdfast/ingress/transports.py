"""How messages of each transport are read into the holding table, and what becomes of their answers.

The loops here run once for each message and bound what the whole product can do, so they call the C part of pyzmq directly:
`recv(copy=False)` gives a frame that knows whether more follow, for 0.3 µs; asking the socket (RCVMORE) costs 0.5, the public
`recv_multipart` 4.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import zmq

from holdfast.ingress.answers import Answered, Answers
from holdfast.ingress.request import Listen
from holdfast.model.holding import Holding

REFUSAL = b"FALSE"
LONGEST_ENVELOPE = 4096  # bytes; a client behind three proxies needs a hundred
MOST_ENVELOPE_FRAMES = 16
_NOW = zmq.NOBLOCK.value


class Transport(Protocol):
    """One bound or connecting socket."""

    refused: int  # messages that were not taken in since they are malformed
    answers: Answers | None  # where somebody waits for them

    def read(self, holding: Holding, most: int, now_ns: int) -> bool:
        """Take in at most so many messages, while there is room; whether more may wait."""
        ...

    def answer(self, answers: Iterable[Answered]) -> None: ...


#: What stands between a REQ client's identity and its body. One object for all.
_DELIMITER = (b"",)


class Rep:
    """A ROUTER that serves lock-step REQ clients and pipelining DEALER clients alike.

    [id, "", body] and [id, body] are messages; of a longer envelope everything up to the first empty frame is echoed. What
    has more than one body frame is answered FALSE at once.
    """

    def __init__(self, sock: zmq.Socket[bytes], wanted: Listen, door: int) -> None:
        self._recv = super(zmq.Socket, sock).recv
        self._door = door
        answers = Answers(sock, wanted.limits)
        self.answers: Answers | None = answers
        self.answer = answers.send
        self.refused = 0

    def read(self, holding: Holding, most: int, now_ns: int) -> bool:
        recv, accept, has_room, door = self._recv, holding.accept, holding.has_room, self._door
        try:
            for _ in range(most):
                if not has_room():
                    return True
                client = recv(_NOW)
                second = recv(_NOW, False)
                if second.more and not len(second):
                    body = recv(_NOW, False)
                    if not body.more:
                        accept(body.bytes, now_ns, (door, client, _DELIMITER))
                        continue
                    frames = [client, b"", body.bytes, *self._rest()]
                elif not second.more:
                    accept(second.bytes, now_ns, (door, client, ()))
                    continue
                else:
                    frames = [client, second.bytes, *self._rest()]
                self._unusual(frames, holding, now_ns)
        except zmq.Again:
            return False
        return True

    def _rest(self) -> list[bytes]:
        """The frames that are left of a message that has more."""
        frames = []
        more = True
        while more:
            frame = self._recv(_NOW, False)
            frames.append(frame.bytes)
            more = frame.more
        return frames

    def _unusual(self, frames: list[bytes], holding: Holding, now_ns: int) -> None:
        """A longer envelope, or too many frames. An envelope is held as long as its message, so it has a bound too."""
        ends = frames.index(b"", 1) + 1 if b"" in frames[1:-1] else 1
        route = (self._door, frames[0], tuple(frames[1:ends]))
        if len(frames) - ends == 1 and sum(map(len, frames[:ends])) <= LONGEST_ENVELOPE and ends <= MOST_ENVELOPE_FRAMES:
            holding.accept(frames[-1], now_ns, route)
            return
        self.refused += 1
        self.answer([(route, REFUSAL)])


class OneWay:
    """PULL and SUB: nobody waits for an answer. Of two frames of a SUB the first is the topic; other shapes are refused."""

    def __init__(self, sock: zmq.Socket[bytes], wanted: Listen, door: int) -> None:
        self._recv = super(zmq.Socket, sock).recv
        self._route = (door, b"", ())
        self._topics = wanted.transport == "sub"
        self.answers: Answers | None = None
        self.refused = 0

    def read(self, holding: Holding, most: int, now_ns: int) -> bool:
        recv, accept, has_room, route = self._recv, holding.accept, holding.has_room, self._route
        try:
            for _ in range(most):
                if not has_room():
                    return True
                frame = recv(_NOW, False)
                if not frame.more:
                    accept(frame.bytes, now_ns, route)
                    continue
                self._several(frame, holding, now_ns)
        except zmq.Again:
            return False
        return True

    def _several(self, first: Any, holding: Holding, now_ns: int) -> None:
        second = self._recv(_NOW, False)
        if self._topics and not second.more:
            holding.accept(second.bytes, now_ns, self._route, {"topic": first.bytes.decode(errors="replace")})
            return
        self.refused += 1
        while second.more:
            second = self._recv(_NOW, False)

    def answer(self, answers: Iterable[Answered]) -> None:
        """Nobody waits for these."""


def make(sock: zmq.Socket[bytes], wanted: Listen, door: int) -> Transport:
    """The reader of a socket of the wanted transport; the routes it makes begin with the number of its door."""
    return Rep(sock, wanted, door) if wanted.transport == "rep" else OneWay(sock, wanted, door)
