"""New code under load, beside the peers: what clients notice of a reload when the app takes 1.5 s to import.

    .venv/bin/python benchmarks/reload.py [--seconds 20] [--every 5] [--runs 1] [--only TEXT,…] [--venv DIR]

Every contestant has two workers and four clients, each of which asks again as soon as it has its answer. The answer is the version that
the code carries; each reload brings the next. ZeroMQ clients keep their connection, HTTP clients make one for each request. An error is
a failed request: nobody tries it again, and its client pauses 10 ms, so that a time without a server is not counted by how fast it fails.
`worst` and `p99` are waits for an answer; `silence` is the longest time in which no client had any; `new after` counts from the
beginning of the reload to the first answer of its version, the median of them. `holdfast reload` and `circusctl reload` are commands that
are waited for, in a session of their own, as from another terminal; one that takes longer than `--every` is followed by the next at once,
so that there are fewer of them.
Clients and contestant share the machine: the load average (one minute, at the end) is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import os
import signal
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import rivals
import zmq

from holdfast.testing.daemon import DaemonProcess, eventually, free_port

WORKERS, CLIENTS = 2, 4
PATIENCE = 30.0  # seconds after which a request has failed
AFTER_FAILURE = 0.01
HEAD = "import time\n\ntime.sleep(1.5)\nVERSION = b'{version}'\n"
WSGI = """
def app(environ, start):
    start("200 OK", [("Content-Length", str(len(VERSION)))])
    return [VERSION]
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(VERSION))]})
        await send({"type": "http.response.body", "body": VERSION})
"""
JOB = """
from holdfast import Job

class Version(Job):
    source = "zmq+rep://127.0.0.1:PORT"

    def handle(self, message):
        return VERSION
"""
CIRCUS = """[circus]
check_delay = 5
endpoint = ipc://{folder}/c1
pubsub_endpoint = ipc://{folder}/c2
[watcher:w]
cmd = {uvicorn} --fd $(circus.sockets.web) --log-level warning asgi:app
numprocesses = {workers}
use_sockets = True
copy_env = True
[socket:web]
host = 127.0.0.1
port = {port}
"""

Ask = Callable[[], int]
Reload = Callable[[], None]


@dataclass(frozen=True)
class Contestant:
    """`serve(folder, port)` runs it for the length of a block and gives what reloads it; its code is `file`; clients use `ask(port)`."""

    file: str
    body: str
    serve: Callable[[Path, int], AbstractContextManager[Reload]]
    ask: Callable[[int], AbstractContextManager[Ask]]

    def write(self, folder: Path, version: int, port: int) -> None:
        """Its code of this version, put there as a whole."""
        (folder / "new").write_text(HEAD.format(version=version) + self.body.replace("PORT", str(port)))
        (folder / "new").rename(folder / self.file)


@dataclass
class Story:
    """What the clients were told. Times are monotonic seconds."""

    began: float = 0.0
    ended: float = 0.0
    answers: list[tuple[float, float, int]] = field(default_factory=list)  # when, after how long, which version
    failures: Counter[str] = field(default_factory=Counter)
    reloads: dict[int, float] = field(default_factory=dict)  # version -> when its reload began
    load: float = 0.0

    def silence(self) -> float:
        """The longest time without an answer."""
        times = [self.began, *sorted(at for at, _, _ in self.answers), self.ended]
        return max(late - early for early, late in itertools.pairwise(times))

    def new_after(self) -> list[float]:
        """Seconds from the beginning of each reload to the first answer of its version, of those that were seen."""
        first: dict[int, float] = {}
        for at, _, version in self.answers:
            first[version] = min(at, first.get(version, at))
        return [first[version] - at for version, at in self.reloads.items() if version in first]


# --- the contestants


@contextlib.contextmanager
def http_client(port: int) -> Iterator[Ask]:
    """A connection for each request."""

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Connection": "close"})
            answer = connection.getresponse()
            if answer.status != 200:
                raise http.client.HTTPException(f"status {answer.status}")
            return int(answer.read())

    yield ask


@contextlib.contextmanager
def zmq_client(port: int) -> Iterator[Ask]:
    """One REQ socket; it may ask again after a failure."""
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVTIMEO, round(PATIENCE * 1000))
        sock.setsockopt(zmq.REQ_RELAXED, 1)
        sock.setsockopt(zmq.REQ_CORRELATE, 1)
        sock.connect(f"tcp://127.0.0.1:{port}")

        def ask() -> int:
            sock.send(b"?")
            return int(sock.recv())

        yield ask


def by_signal(command: Callable[[Path, int], list[str]]) -> Callable[[Path, int], AbstractContextManager[Reload]]:
    """A peer that reloads at SIGHUP."""

    @contextlib.contextmanager
    def serve(folder: Path, port: int) -> Iterator[Reload]:
        with rivals.running(command(folder, port), folder) as peer:
            yield lambda: peer.send_signal(signal.SIGHUP)

    return serve


def gunicorn(_folder: Path, port: int) -> list[str]:
    return [rivals.binary("gunicorn"), "-b", f"127.0.0.1:{port}", "-w", str(WORKERS), "--log-level", "warning", "wsgi:app"]


def uvicorn(_folder: Path, port: int) -> list[str]:
    return [rivals.binary("uvicorn"), "--port", str(port), "--workers", str(WORKERS), "--log-level", "warning", "asgi:app"]


@contextlib.contextmanager
def circus(folder: Path, port: int) -> Iterator[Reload]:
    """circusd holds the socket, uvicorn serves it."""
    text = CIRCUS.format(folder=folder, uvicorn=rivals.binary("uvicorn"), workers=WORKERS, port=port)
    (folder / "circus.ini").write_text(text)
    order = [rivals.binary("circusctl"), "--endpoint", f"ipc://{folder}/c1", "reload", "w"]
    with rivals.running([rivals.binary("circusd"), str(folder / "circus.ini")], folder):
        yield lambda: void(order, folder)


@contextlib.contextmanager
def holdfast(folder: Path, _port: int) -> Iterator[Reload]:
    """A daemon of two workers that is reloaded by the command."""
    app = (folder / "app.py").read_text()
    with DaemonProcess(
        folder, app, toml=f"probation = '0s'\n[jobs.Version]\nprocesses = {WORKERS}\n", environ=rivals.environ(folder)
    ) as daemon:
        daemon.start()
        yield lambda: void(daemon.command("reload"), folder)


def void(order: list[str], folder: Path) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(
        order, cwd=folder, env=rivals.environ(folder), capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(order)}: {done.stdout}{done.stderr}")


CONTESTANTS = {
    "gunicorn, sync, HUP": Contestant("wsgi.py", WSGI, by_signal(gunicorn), http_client),
    "uvicorn, HUP": Contestant("asgi.py", ASGI, by_signal(uvicorn), http_client),
    "circus + uvicorn, reload": Contestant("asgi.py", ASGI, circus, http_client),
    "holdfast, ZeroMQ, reload": Contestant("app.py", JOB, holdfast, zmq_client),
}


# --- the load


def play(contestant: Contestant, seconds: float, every: float) -> Story:
    """Run one contestant under load, reload it again and again."""
    story, stop = Story(), threading.Event()
    with rivals.scene() as folder:
        port = free_port()
        contestant.write(folder, 1, port)
        with contestant.serve(folder, port) as reload:
            _wait(contestant, port)
            clients = [threading.Thread(target=_client, args=(contestant, port, story, stop)) for _ in range(CLIENTS)]
            story.began = time.monotonic()
            for client in clients:
                client.start()
            try:
                _reloads(contestant, reload, story, (folder, port), (seconds, every))
            finally:
                stop.set()
                for client in clients:
                    client.join()
                story.ended, story.load = time.monotonic(), os.getloadavg()[0]
    return story


def _reloads(contestant: Contestant, reload: Reload, story: Story, where: tuple[Path, int], pace: tuple[float, float]) -> None:
    """The first after a second; none so late that its version could not be seen."""
    seconds, every = pace
    due, version = story.began + 1.0, 1
    while due + every <= story.began + seconds + 1.0:
        time.sleep(max(0.0, due - time.monotonic()))
        version += 1
        contestant.write(where[0], version, where[1])
        story.reloads[version] = time.monotonic()
        reload()
        due = max(due + every, time.monotonic())
    time.sleep(max(0.0, story.began + seconds - time.monotonic()))


def _wait(contestant: Contestant, port: int) -> None:
    """Until it serves; then a moment more, for the second worker."""

    def serves() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, zmq.ZMQError), contestant.ask(port) as ask:
            return ask() == 1
        return False

    eventually(serves, "it serves")
    time.sleep(1.0)


def _client(contestant: Contestant, port: int, story: Story, stop: threading.Event) -> None:
    with contestant.ask(port) as ask:
        while not stop.is_set():
            began = time.monotonic()
            try:
                version = ask()
            except (OSError, http.client.HTTPException, zmq.ZMQError, ValueError) as error:
                story.failures[type(error).__name__] += 1
                stop.wait(AFTER_FAILURE)
            else:
                now = time.monotonic()
                story.answers.append((now, now - began, version))


def row(name: str, story: Story) -> str:
    """One line of the table, and what failed below it."""
    waits = sorted(wait for _, wait, _ in story.answers)
    p99 = statistics.quantiles(waits, n=100)[98]
    seen = story.new_after()
    text = f"{name:26}{len(waits):10}{story.failures.total():8}{waits[-1] * 1e3:10.1f}{p99 * 1e3:9.1f}{story.silence() * 1e3:12.1f}"
    text += f"{f'{len(seen)} of {len(story.reloads)}':>10}{statistics.median(seen) if seen else float('nan'):13.1f}{story.load:7.1f}"
    return "\n".join([text, *(f"    {count} {kind}" for kind, count in story.failures.most_common())])


def main() -> None:
    """Run all, one after the other; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of load, for each contestant")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two reloads")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", default="", metavar="TEXT,…", help="contestants whose names hold one of these")
    given = rivals.in_one_environment(parser)
    print(f"{os.cpu_count()} processors; {WORKERS} workers, {CLIENTS} clients, {given.seconds:g} s, a reload every {given.every:g} s")
    head = f"{'':26}{'answers':>10}{'failed':>8}{'worst ms':>10}{'p99 ms':>9}{'silence ms':>12}{'seen':>10}{'new after s':>13}{'load':>7}"
    print(head)
    for _ in range(given.runs):
        for name, contestant in CONTESTANTS.items():
            if any(part in name for part in given.only.split(",")):
                print(row(name, play(contestant, given.seconds, given.every)), flush=True)


if __name__ == "__main__":
    main()
