"""Real zygotes and workers, with the test in the place of the supervisor and the ingress."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import holdfast.process
from holdfast.linux.channel import Channel, Packet, from_memfd, to_memfd
from holdfast.linux.process import STACKS_SIGNAL
from holdfast.model import board
from holdfast.model.delivery import Decoder, Delivery, encode
from holdfast.model.options import JobOptions
from holdfast.model.spec import WorkerSpec

PATIENCE = 30.0
STANDIN = str(Path(__file__).parent / "standin")
OPTIONS = JobOptions(source="zmq+rep://127.0.0.1:1", threads=1, retries=0, batch=10, dead_letter="state_dir", overlap=True)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that has no descriptor to wait on."""
    limit = time.monotonic() + PATIENCE
    while not (result := condition()):
        if time.monotonic() > limit:
            raise AssertionError(f"in vain: {what}")
        select.select([], [], [], 0.002)
    return result


def readable(fd: Any, patience: float = PATIENCE) -> bool:
    return bool(select.select([fd], [], [], patience)[0])


class Peer:
    """The supervisor's end of a channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.fds: list[int] = []

    def say(self, packet: Packet, fds: Iterable[int] = ()) -> None:
        assert self.channel.send(packet, list(fds))

    def hear(self) -> Packet:
        """The next packet; EOFError at the end."""
        while True:
            assert readable(self.channel), "nothing was said"
            received = self.channel.receive()
            if received is not None:
                packet, self.fds = received
                return packet

    def expect(self, word: str) -> Packet:
        packet = self.hear()
        assert packet["say"] == word, packet
        return packet

    def trace(self) -> str:
        return from_memfd(self.fds.pop()).decode()

    def at_end(self) -> bool:
        try:
            self.hear()
        except EOFError:
            return True
        return False


class Ward(Peer):
    """One worker (or prepare run, or twin), as its supervisor and its ingress see it."""

    def __init__(self, pid: int, channel: Channel, data: socket.socket | None, view: memoryview, log: Path, stacks: int) -> None:
        super().__init__(channel)
        self.pid, self.data, self.view, self.log, self.stacks = pid, data, view, log, stacks
        self._frames: list[tuple[str, Any]] = []
        self._decoder = Decoder()

    def active(self) -> Ward:
        self.expect("ready")
        self.say({"do": "activate"})
        return self

    def deliver(self, *bodies: bytes, first: int = 1, redelivered: bool = False) -> None:
        deliveries = [Delivery(first + i, body, time.monotonic_ns(), redelivered=redelivered) for i, body in enumerate(bodies)]
        self.data.sendall(encode(("m", deliveries)))

    def frame(self) -> tuple[str, Any]:
        while not self._frames:
            assert readable(self.data), "no frame came"
            data = self.data.recv(1 << 16)
            if not data:
                raise EOFError
            self._frames.extend(self._decoder.feed(data))
        return self._frames.pop(0)

    def settled(self, number: int) -> list[list[Any]]:
        found: list[list[Any]] = []
        while len(found) < number:
            kind, what = self.frame()
            if kind == "settled":
                found.extend(what)
        return found

    def rest(self) -> dict[str, list[Any]]:
        """Every frame up to the end."""
        result: dict[str, list[Any]] = {}
        try:
            while True:
                kind, what = self.frame()
                result.setdefault(kind, []).extend(what if isinstance(what, list) else [what])
        except (EOFError, ConnectionResetError):
            return result

    def reading(self) -> board.Reading:
        return board.read(self.view, time.monotonic_ns())

    def ask_for_stacks(self) -> None:
        os.ftruncate(self.stacks, 0)
        os.kill(self.pid, STACKS_SIGNAL)

    def told_stacks(self) -> str:
        return os.pread(self.stacks, 1 << 20, 0).decode()

    def wait(self) -> int:
        """The exit status, or minus the signal."""

        def reaped() -> tuple[int, int] | None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return (pid, status) if pid else None

        return os.waitstatus_to_exitcode(until(reaped, f"end of {self.pid}")[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Nursery:
    """One zygote (and its twins), everything in one folder."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.log = folder / "zygote.log"
        self.wards: list[Ward] = []
        self.environment = environment or {}
        self.zygote: Peer | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._spawned = 0

    def start(self, text: str, *, app: str = "fee.py", allow_threads: bool = False, preload: tuple[str, ...] = ("standin_engine",)) -> Peer:
        (self.folder / "fee.py").write_text(text)
        channel, theirs = Channel.pair()
        boot = {"app": app, "directory": str(self.folder), "generation": 1, "allow_threads": allow_threads, "preload": list(preload)}
        boot_fd = to_memfd("boot", json.dumps(boot).encode())
        paths = [STANDIN, str(Path(holdfast.process.__file__).parent.parent)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, holdfast.process.__file__, "zygote", "--channel", str(theirs.fileno()), "--boot", str(boot_fd)],
                pass_fds=(theirs.fileno(), boot_fd),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "", "PYTHONPATH": os.pathsep.join(paths), **self.environment},
            )
        theirs.close()
        os.close(boot_fd)
        self.zygote = Peer(channel)
        return self.zygote

    def loaded(self, text: str, **how: Any) -> Packet:
        return self.start(text, **how).expect("loaded")

    def spec(self, role: Any = "worker", cls: str = "Fee", stop_timeout: float = 20.0, **options: Any) -> WorkerSpec:
        self._spawned += 1
        settings = {name: options.pop(name) for name in ("settings_path", "settings_text", "most_messages") if name in options}
        return WorkerSpec(
            f"{cls}/0.{self._spawned}", role, cls, cls, 1, replace(OPTIONS, **options), str(self.folder), stop_timeout, epoch=7, **settings
        )

    def spawn(self, role: Any = "worker", *, by: Peer | None = None, **how: Any) -> Ward:
        ward = self.try_spawn(role, by=by, **how)
        assert isinstance(ward, Ward), ward
        return ward

    def try_spawn(self, role: Any = "worker", *, by: Peer | None = None, **how: Any) -> Ward | Packet:
        spec = self.spec(role, **how)
        zygote = by or self.zygote
        channel, theirs = Channel.pair()
        data, data_theirs = socket.socketpair()
        size = board.size(spec.options.threads, spec.options.batch)
        board_fd = os.memfd_create("board", os.MFD_CLOEXEC)
        os.ftruncate(board_fd, size)
        log_path = self.folder / f"{spec.id.replace('/', '-')}.log"
        log_fd = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fds = {
            "spec": to_memfd("spec", json.dumps(spec.to_json()).encode()),
            "channel": theirs.fileno(),
            "log": log_fd,
            "board": board_fd,
            "data": data_theirs.fileno(),
            "stacks": os.memfd_create("stacks", os.MFD_CLOEXEC),
        }
        zygote.say({"do": "spawn", "id": spec.id, "fds": list(fds)}, fds.values())
        import mmap

        view = memoryview(mmap.mmap(board_fd, size))
        for end in (theirs, data_theirs):
            end.close()
        for fd in (fds["spec"], log_fd, board_fd):
            os.close(fd)
        answer = zygote.hear()
        if answer["say"] != "spawned":
            channel.close()
            data.close()
            os.close(fds["stacks"])
            return answer
        assert answer["id"] == spec.id
        ward = Ward(answer["pid"], channel, data, view, log_path, fds["stacks"])
        self.wards.append(ward)
        return ward

    def close(self) -> None:
        for ward in self.wards:
            ward.channel.close()
            ward.data.close()
            os.close(ward.stacks)
            try:
                if os.waitpid(ward.pid, os.WNOHANG)[0] == 0:
                    ward.kill()
                    os.waitpid(ward.pid, 0)
            except ChildProcessError:
                continue
        self.close_zygote()

    def close_zygote(self) -> None:
        if self.zygote is not None:
            self.zygote.channel.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
