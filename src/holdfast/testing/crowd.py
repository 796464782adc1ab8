"""Clients of a daemon's answering source, and what they were told: REQ clients that send again after a time-out, and one pipelining
DEALER. One thread and one poller for all of them, so that the load costs little beside what it loads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import zmq

Socket = Any  # pyzmq's types are not those of every version
_TURN = 0.05  # seconds after which the loop looks at the clock and at `stop`, when nothing comes


@dataclass(slots=True)
class Sent:
    """One message: when it was sent first and last, and whether by the DEALER."""

    first: float
    last: float
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, in the order of coming. Times are monotonic seconds; `waited` counts from the first sending."""

    at: float
    name: str
    text: bytes
    waited: float
    sent_last: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the answers promise beside what the store holds. `lost`: answered well, without effect; `unknown`: never sent, with effect."""

    lost: frozenset[str]
    doubled: frozenset[str]
    unknown: frozenset[str]

    @property
    def fine(self) -> bool:
        """Whether every message answered well has had exactly one effect, and nothing else has."""
        return not (self.lost or self.doubled or self.unknown)


class Crowd:
    """Sends from `with` to `finish`. `where` is an endpoint, or a port of the loopback; `rate` is in messages a second, none: as answered.

    What has no answer `again_after` seconds after its sending is sent again; None: never, for messages without an identity. What has none
    `patience` seconds after nothing new is sent any more is given up. `body` makes a message of a name; the daemon's effect must be
    found under the same name. With `prefix` several crowds have names of their own.
    """

    def __init__(
        self,
        where: int | str,
        *,
        reqs: int = 8,
        window: int = 100,
        again_after: float | None = None,
        patience: float = 60.0,
        rate: float | None = None,
        body: Callable[[str], bytes] = str.encode,
        prefix: str = "",
    ) -> None:
        self.stop = threading.Event()
        self.answers: dict[str, set[bytes]] = {}
        self.story: list[Answer] = []
        self.unanswered: set[str] = set()
        self.longest = 0.0  # the worst wait for an answer, from the first sending
        self.silence = 0.0  # the longest time without any answer
        self.again = 0  # sendings that were repeated
        self.sent = 0
        self._endpoint = f"tcp://127.0.0.1:{where}" if isinstance(where, int) else where
        self._moves: deque[str] = deque()
        self._again_after = float("inf") if again_after is None else again_after
        self._window, self._rate, self._body, self._prefix = window, rate, body, prefix
        self._patience_at_end, self._give_up = patience, float("inf")
        self._context: Any = None  # made where it is used: one that is never ended makes itself heard
        self._poller = zmq.Poller()
        self._idle: deque[Socket] = deque()
        self._asking: dict[Socket, str] = {}
        self._dealers: list[Socket] = []
        self._open: dict[str, Sent] = {}
        self._reqs = reqs
        self._began = self._last_answer = 0.0
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="crowd")

    @property
    def answered(self) -> int:
        """Messages that have an answer."""
        return len(self.answers)

    def __enter__(self) -> Crowd:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.finish()

    def move(self, endpoint: str) -> None:
        """From now on send there; what is under way is answered where it was sent."""
        self._moves.append(endpoint)

    def finish(self) -> None:
        """Send nothing new; wait for the answers that are due, at most `patience` seconds."""
        self.stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._broken is not None:
            raise self._broken

    def compare(self, effects: Mapping[str, int], good: Callable[[bytes], bool] = lambda answer: answer != b"FALSE") -> Verdict:
        """Hold what was answered against how often each name had its effect; `good` tells the answers that promise one."""
        promised = {name for name, answers in self.answers.items() if any(map(good, answers))}
        return Verdict(
            frozenset(name for name in promised if not effects.get(name)),
            frozenset(name for name, count in effects.items() if count > 1),
            frozenset(effects.keys() - self.answers.keys() - self.unanswered),
        )

    # --- the loop, in its own thread

    def _run(self) -> None:
        self._context = zmq.Context()
        try:
            self._loop()
        except BaseException as error:
            self._broken = error
        finally:
            for sock in (*self._idle, *self._asking, *self._dealers):
                sock.close(0)
            self._context.term()

    def _loop(self) -> None:
        for _ in range(self._reqs):
            self._idle.append(self._connect(zmq.REQ))
        self._dealers.append(self._connect(zmq.DEALER))
        self._began = self._last_answer = time.monotonic()
        next_look = 0.0
        while not (self.stop.is_set() and not self._open):
            now = time.monotonic()
            if self._moves:
                self._go_elsewhere()
            if not self.stop.is_set():
                self._send_new(now)
            elif self._give_up == float("inf"):
                self._give_up = now + self._patience_at_end
            if now >= next_look:
                next_look = now + min(_TURN, self._again_after / 4)
                self._send_again(now)
            for sock, _event in self._poller.poll(self._patience(now)):
                self._receive(sock)

    def _patience(self, now: float) -> int:
        """Milliseconds to wait for answers."""
        wait = min(_TURN, self._again_after / 4)
        if self._rate is not None and not self.stop.is_set():
            wait = min(wait, max(0.001, self._began + self.sent / self._rate - now))
        return max(1, round(wait * 1000))

    def _connect(self, kind: int) -> Socket:
        sock = self._context.socket(kind)
        sock.linger = 0
        sock.connect(self._endpoint)
        self._poller.register(sock, zmq.POLLIN)
        return sock

    def _close(self, sock: Socket) -> None:
        self._poller.unregister(sock)
        sock.close(0)

    def _send_new(self, now: float) -> None:
        allowed = float("inf") if self._rate is None else (now - self._began) * self._rate - self.sent
        while allowed >= 1.0 and self._idle:
            sock = self._idle.popleft()
            name = self._new("r", now)
            self._asking[sock] = name
            sock.send(self._open[name].body)
            allowed -= 1.0
        while allowed >= 1.0 and len(self._open) - len(self._asking) < self._window:
            self._by_dealer(self._new("d", now))
            allowed -= 1.0

    def _new(self, kind: str, now: float) -> str:
        name = f"{self._prefix}{kind}.{self.sent}"
        self.sent += 1
        self._open[name] = Sent(now, now, self._body(name))
        return name

    def _by_dealer(self, name: str) -> None:
        self._dealers[-1].send_multipart([name.encode(), b"", self._open[name].body])

    def _send_again(self, now: float) -> None:
        """What has waited too long for its answer; all that is still open at the very end is given up."""
        if now >= self._give_up:
            self.unanswered.update(self._open)
            self._open.clear()
            return
        asking = {name: sock for sock, name in self._asking.items()}
        for name in [name for name, sent in self._open.items() if now - sent.last >= self._again_after]:
            sock = asking.get(name)
            if sock is not None:
                del self._asking[sock]
                self._close(sock)
            self.again += 1
            self._open[name].last = now
            if sock is None:
                self._by_dealer(name)
            else:
                fresh = self._connect(zmq.REQ)
                self._asking[fresh] = name
                fresh.send(self._open[name].body)

    def _receive(self, sock: Socket) -> None:
        if sock in self._asking:
            self._take(self._asking.pop(sock), sock.recv())
            self._idle.append(sock)
            return
        while True:
            try:
                name, _, text = sock.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            self._take(name.decode(), text)

    def _take(self, name: str, text: bytes) -> None:
        now = time.monotonic()
        self.answers.setdefault(name, set()).add(text)
        self.silence = max(self.silence, now - self._last_answer)
        self._last_answer = now
        sent = self._open.pop(name, None)
        if sent is not None:  # else an answer to an earlier sending of it came first
            self.longest = max(self.longest, now - sent.first)
            self.story.append(Answer(now, name, text, now - sent.first, sent.last))

    def _go_elsewhere(self) -> None:
        while self._moves:
            self._endpoint = self._moves.popleft()
        for _ in range(len(self._idle)):
            self._close(self._idle.popleft())
            self._idle.append(self._connect(zmq.REQ))
        self._dealers.append(self._connect(zmq.DEALER))


@dataclass(slots=True)
class Row:
    """One line of the table that a show of it ends with."""

    name: str
    crowd: Crowd
    verdict: Verdict
    errors: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def fine(self) -> bool:
        """Whether the show has kept what it promises."""
        return self.verdict.fine and not self.notes and bool(self.crowd.answered)


HEAD = f"{'scenario':18}{'messages':>10}{'lost':>7}{'doubled':>9}{'errors':>8}{'sent again':>12}{'worst ms':>10}{'silence ms':>12}"


def table(rows: list[Row]) -> str:
    """The rows, with what went wrong below each."""
    lines = [HEAD]
    for row in rows:
        crowd, verdict = row.crowd, row.verdict
        text = f"{row.name:18}{crowd.answered:10}{len(verdict.lost):7}{len(verdict.doubled):9}{row.errors:8}{crowd.again:12}"
        lines.append(f"{text}{crowd.longest * 1e3:10.0f}{crowd.silence * 1e3:12.0f}")
        lines += [f"  {note}" for note in row.notes]
    return "\n".join(lines)
