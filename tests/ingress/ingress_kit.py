"""Plays the supervisor, the workers and the clients of a real ingress process."""

from __future__ import annotations

import json
import mmap
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zmq

from holdfast import process
from holdfast.linux.channel import Channel, to_memfd
from holdfast.model import tally
from holdfast.model.delivery import DONE, Decoder, Delivery, encode

LIMIT = 20.0  # no test waits longer than this for anything
PATIENT = "import sys; from holdfast.ingress import loop, main; loop.LINGER = {linger}; sys.exit(main.main(sys.argv[1:]))"


def until(true: Callable[[], Any], what: str, *, limit: float = LIMIT) -> Any:
    """The first true value; polled, since a counter in shared memory tells nobody."""
    deadline = time.monotonic() + limit
    pause = select.poll()
    while not (value := true()):
        assert time.monotonic() < deadline, f"never: {what}"
        pause.poll(2)
    return value


class Worker:
    """The worker's end of a data socket."""

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self.sock.settimeout(LIMIT)
        self._decoder = Decoder(deliveries=True)
        self._waiting: list[Delivery] = []

    def tell(self, verb: str, content: Any) -> None:
        self.sock.sendall(encode((verb, content)))

    def credit(self, messages: int) -> None:
        self.tell("credit", messages)

    def take(self, count: int) -> list[Delivery]:
        """Exactly so many deliveries, waiting for them."""
        while len(self._waiting) < count:
            data = self.sock.recv(1 << 18)
            assert data, "the ingress has closed the socket"
            for _verb, deliveries in self._decoder.feed(data):
                self._waiting.extend(deliveries)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def has_nothing(self) -> bool:
        """Whether nothing has come; to be asked after something that must have come later."""
        return not self._waiting and not select.select([self.sock], [], [], 0)[0]

    def settle(self, deliveries: Sequence[Delivery], answer: bytes = b"TRUE") -> None:
        self.tell("settled", [(delivery.seq, DONE, answer) for delivery in deliveries])

    def serve(self, count: int) -> list[Delivery]:
        """Settle so many messages as they come, echoing their bodies."""
        served: list[Delivery] = []
        while len(served) < count:
            taken = self.take(max(1, len(self._waiting)))
            self.tell("settled", [(delivery.seq, DONE, delivery.body) for delivery in taken])
            self.credit(len(taken))
            served += taken
        return served


class Supervisor:
    """Starts an ingress and speaks to it."""

    def __init__(self, folder: Path, *, stop_timeout: float = 10.0, linger: float | None = None) -> None:
        """With `linger`, answers have so many seconds to leave at the end."""
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.channel, theirs = Channel.pair()
        board = os.memfd_create("tally")
        os.ftruncate(board, tally.SIZE)
        self._board = mmap.mmap(board, tally.SIZE)
        boot = to_memfd("boot", json.dumps({"epoch": 1, "stop_timeout": stop_timeout}).encode())
        fds = [theirs.fileno(), boot, board]
        self.errors = folder / "stderr"
        flags = ["--channel", str(fds[0]), "--boot", str(boot), "--tally", str(board)]
        program = [process.__file__, "ingress"] if linger is None else ["-c", PATIENT.format(linger=linger)]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen([sys.executable, *program, *flags], pass_fds=fds, stderr=errors)
        theirs.close()
        os.close(boot)
        os.close(board)
        self._listeners: list[socket.socket] = []
        self._workers: list[Worker] = []
        self._said: list[dict[str, Any]] = []
        self._first: dict[str, Any] | None = None

    def tell(self, do: str, fds: Sequence[int] = (), **packet: Any) -> None:
        assert self.channel.send({"do": do, **packet}, fds)

    def hear(self, say: str) -> dict[str, Any]:
        """The next packet of this kind, waiting for it; others are kept."""

        def heard() -> dict[str, Any] | None:
            while (received := self.channel.receive()) is not None:
                self._first = self._first or received[0]
                self._said.append(received[0])
            return next((packet for packet in self._said if packet["say"] == say), None)

        packet: dict[str, Any] = until(heard, f"say {say}")
        self._said.remove(packet)
        return packet

    def first(self) -> dict[str, Any] | None:
        """The very first packet; to be asked after something was heard."""
        return self._first

    def tcp(self) -> tuple[str, socket.socket]:
        listener = socket.create_server(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}", listener

    def ipc(self, name: str) -> tuple[str, socket.socket]:
        path = self.folder / name
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listeners.append(listener)
        folder = os.open(self.folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{folder}/{name}")
        os.close(folder)
        listener.listen(128)
        return f"ipc://{path}", listener

    def listen(self, transport: str = "rep", *, place: tuple[str, socket.socket] | None = None, row: int = 0, **rest: Any) -> str:
        """Let job "J<row>" listen, at a door of that name or of another; returns the endpoint."""
        limits = {name: rest.pop(name) for name in list(rest) if name not in {"topics", "connect", "door"}}
        endpoint, listener = place or self.tcp()
        self._listeners.append(listener)
        packet = {"job": f"J{row}", "row": row, "transport": transport, "endpoint": endpoint, "limits": limits, **rest}
        self.tell("listen", [listener.fileno()], **packet)
        assert self.hear("listening") == {"say": "listening", "job": f"J{row}", "door": rest.get("door", f"J{row}")}
        return endpoint

    def attach(self, name: str, credit: int = 0, *, row: int = 0, quarantine: bool = False) -> Worker:
        ours, theirs = socket.socketpair()
        self.tell("attach", [theirs.fileno()], worker=name, job=f"J{row}", quarantine=quarantine)
        theirs.close()
        worker = Worker(name, ours)
        self._workers.append(worker)
        if credit:
            worker.credit(credit)
        return worker

    def obeyed(self) -> None:
        """Wait until everything told so far has been done: an attachment that must be refused is refused last."""
        refused = self.attach("nobody", row=255)
        assert refused.sock.recv(1) == b""

    def dead(self, worker: Worker, suspects: Sequence[int] = (), reason: str = "killed by signal 9") -> None:
        self.tell("dead", worker=worker.name, suspects=list(suspects), reason=reason)

    def rss(self) -> int:
        """Bytes of memory that the ingress uses."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def wakeups(self) -> int:
        """How often any thread of the ingress has gone to sleep."""
        texts = [status.read_text() for status in Path(f"/proc/{self.process.pid}/task").glob("*/status")]
        lines = [line for text in texts for line in text.splitlines()]
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))

    def tally(self, row: int = 0) -> dict[str, int]:
        return tally.read(self._board, row)

    def reaches(self, row: int = 0, **counters: int) -> dict[str, int]:
        """Wait until these counters have these values."""

        def reached() -> dict[str, int] | None:
            now = self.tally(row)
            return now if all(now[name] == value for name, value in counters.items()) else None

        try:
            found: dict[str, int] = until(reached, str(counters))
        except AssertionError as error:
            raise AssertionError(f"{error}, but {self.tally(row)}") from None
        return found

    def log(self) -> list[dict[str, Any]]:
        """The events so far."""
        lines = self.errors.read_bytes().split(b"\n")
        return [json.loads(line[1:]) for line in lines if line.startswith(b"\x1e")]

    def exits(self) -> int:
        """Its exit status, waiting for it."""
        return self.process.wait(LIMIT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for end in (*self._listeners, *(worker.sock for worker in self._workers), self.channel):
            end.close()
        self._board.close()


class Client:
    """A ZeroMQ socket with limits on every wait."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str, **options: Any) -> None:
        self.sock = context.socket(kind)
        self.sock.set(zmq.LINGER, 0)
        self.sock.set(zmq.RCVTIMEO, int(LIMIT * 1000))
        self.sock.set(zmq.SNDTIMEO, int(LIMIT * 1000))
        for name, value in options.items():
            self.sock.set(getattr(zmq, name), value)
        self.sock.connect(endpoint)

    def send(self, *frames: bytes) -> None:
        self.sock.send_multipart(frames)

    def recv(self) -> list[bytes]:
        return self.sock.recv_multipart()

    def has_nothing(self, within_ms: int = 50) -> bool:
        return not self.sock.poll(within_ms)

    def close(self) -> None:
        self.sock.close(0)


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def numbered(count: int, prefix: str = "") -> Iterator[bytes]:
    return (f"{prefix}{number}".encode() for number in range(count))
