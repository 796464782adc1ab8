"""One ingress in place of another, while clients are connected: what an upgrade does when the ingress's own code has changed."""

import contextlib
import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq
from crowd import ask, effects
from upgrade_kit import TWO, Make, count, ingresses, pids, use

from holdfast.testing.builds import Builds, edit
from holdfast.testing.crowd import Crowd
from holdfast.testing.daemon import DaemonProcess, eventually, free_port

IDENTITY = "    def identity(self, message):\n        return message.text\n\n"
CONNECTING = """
from holdfast import Daemon, Job

class Add(Job):
    source = "zmq+{kind}://127.0.0.1:{port}?connect=true"
    store = "sqlite:///{folder}/add.db"
    schema = "CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER)"

    def handle(self, message, db):
        db.execute("INSERT INTO account VALUES (:n, 1)", {{"n": message.text}})
"""


@pytest.fixture
def daemon(make: Make, builds: Builds) -> DaemonProcess:
    one = make(TWO)
    one.python = builds.python
    return one


@pytest.mark.parametrize(("kind", "ours"), [("sub", zmq.PUB), ("pull", zmq.PUSH)])
def test_a_job_that_connects_goes_on_with_another_ingress_and_has_nothing_twice(
    make: Make, builds: Builds, other: Path, kind: str, ours: int
) -> None:
    port = free_port()
    daemon = make(TWO)
    daemon.file.write_text(CONNECTING.format(kind=kind, port=port, folder=daemon.folder))
    daemon.python = builds.python
    with Stream(port, ours) as stream:
        daemon.start()
        (old,) = ingresses(daemon)
        stream.arrives_in(daemon)
        use(builds, other)
        told = daemon.ask("upgrade")
        assert told["exit"] == 0, told
        assert "the ingress" in told["result"]["changes"]
        eventually(lambda: old not in ingresses(daemon), "nobody connects to the old one: it leaves at once")
        stream.arrives_in(daemon)
        eventually(lambda: len(daemon.workers()) == 2, "as many workers as before")
    done = effects(daemon.folder / "add.db")
    assert set(done.values()) == {1}
    assert set(map(int, done)) <= set(range(stream.sent))


class Stream:
    """Numbers, published or pushed one after the other, to whoever is connected."""

    def __init__(self, port: int, kind: int) -> None:
        self.sent = 0
        self._port, self._kind = port, kind
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()

    def arrives_in(self, daemon: DaemonProcess) -> None:
        """Wait until the daemon has the effect of a number that was not sent before."""
        before = self.sent
        eventually(lambda: _newest(daemon) > before, "what is sent has its effect")

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(self._kind) as sock:
            sock.linger = 0
            sock.bind(f"tcp://127.0.0.1:{self._port}")
            while not self._over.wait(0.002):
                try:
                    sock.send(str(self.sent).encode(), zmq.DONTWAIT)
                except zmq.Again:
                    continue  # a PUSH socket without a peer
                self.sent += 1


def _newest(daemon: DaemonProcess) -> int:
    with contextlib.closing(sqlite3.connect(daemon.folder / "add.db")) as connection:
        return int(connection.execute("SELECT max(CAST(name AS INTEGER)) FROM account").fetchone()[0] or 0)


def test_the_old_ingress_may_die_while_the_new_one_starts(daemon: DaemonProcess, builds: Builds, other: Path) -> None:
    """Its clients ask again, as after every death of an ingress; nobody is left without an address."""
    daemon.file.write_text(daemon.file.read_text().replace("if __name__", IDENTITY + "if __name__"))
    gate = daemon.folder / "gate"
    wait = f"        while not __import__('os').path.exists({str(gate)!r}):\n            time.sleep(0.01)\n"
    edit(other / "ingress/loop.py", "        names = {", f"{wait}        names = {{")
    daemon.start()
    (old,) = ingresses(daemon)
    use(builds, other)
    told: list[dict[str, Any]] = []
    with Crowd(daemon.port, reqs=4, window=1, again_after=0.5) as crowd:  # type: ignore[attr-defined]
        count(crowd)
        upgrade = threading.Thread(target=lambda: told.append(daemon.ask("upgrade")))
        upgrade.start()
        eventually(lambda: len(ingresses(daemon)) == 2, "another one starts")
        daemon.kill(old)
        eventually(lambda: old not in ingresses(daemon), "the old one is dead")
        gate.touch()
        upgrade.join()
        count(crowd)
    assert [answer["exit"] for answer in told] == [0], told
    eventually(lambda: len(ingresses(daemon)) == 1, "one serves")
    eventually(lambda: len(daemon.status()["jobs"][0]["workers"]) == 2, "as many workers as before")
    done = effects(daemon.folder / "add.db")
    assert {name: done[name] for name in crowd.answers} == dict.fromkeys(crowd.answers, 1)
    assert ask(daemon.port, "x") == b"TRUE"  # type: ignore[attr-defined]


def test_another_ingress_takes_new_connections_and_the_old_one_serves_its_own(daemon: DaemonProcess, builds: Builds, other: Path) -> None:
    daemon.start()
    port, (old,) = daemon.port, ingresses(daemon)  # type: ignore[attr-defined]
    with zmq.Context() as context, context.socket(zmq.REQ) as early, Crowd(port, reqs=4, window=20) as crowd:
        early.linger = 0
        early.connect(f"tcp://127.0.0.1:{port}")
        early.send(b"early")
        assert early.recv() == b"TRUE"
        count(crowd)
        use(builds, other)
        told = daemon.run("upgrade")
        assert (told.returncode, told.stderr) == (0, ""), daemon.log()
        assert "  the ingress\n" in told.stdout
        new = next(pid for pid in ingresses(daemon) if pid != old)
        count(crowd)
        assert crowd.unanswered == set()
        assert len(daemon.workers()) == 4, "two for each"
        daemon.kill(old, signal.SIGSTOP)
        assert ask(port, "new") == b"TRUE", "new connections meet the new one"
        daemon.kill(old, signal.SIGCONT)
        daemon.kill(new, signal.SIGSTOP)
        early.send(b"early again")
        assert early.poll(20_000), "old connections are served by the old one"
        assert early.recv() == b"TRUE"
        daemon.kill(new, signal.SIGCONT)
        count(crowd)
        for pid in pids(daemon):
            daemon.kill(pid)  # those of both are replaced, each for its own
        count(crowd)
        early.send(b"early once more")
        assert early.poll(20_000)
        assert early.recv() == b"TRUE"
        daemon.file.write_text(daemon.file.read_text().replace('if how == "pid" else None', 'if how == "pid" else "2"'))
        assert daemon.run("reload").returncode == 0
        early.send(b"early at last")
        assert early.poll(20_000)
        assert early.recv() == b"2", "a reload concerns them too"
        again = daemon.run("upgrade")
        assert again.returncode == 0, again.stderr
        assert sorted(ingresses(daemon)) == sorted([old, new]), "what is up to date stays"
    eventually(lambda: ingresses(daemon) == [new], "it leaves when its clients have left")
    eventually(lambda: len(daemon.status()["jobs"][0]["workers"]) == 2, "and so do its workers")
    assert crowd.unanswered == set()
    names = {"early", "early again", "early once more", "early at last", "new"}
    assert crowd.compare({name: n for name, n in effects(daemon.folder / "add.db").items() if name not in names}).fine
    assert ask(port, "x") == b"2"


def test_a_third_ingress_waits_for_the_first_to_leave(daemon: DaemonProcess, builds: Builds, other: Path) -> None:
    daemon.start()
    with zmq.Context() as context, context.socket(zmq.REQ) as early:
        early.linger = 0
        early.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        early.send(b"early")
        assert early.recv() == b"TRUE"
        use(builds, other)
        assert daemon.ask("upgrade")["exit"] == 0
        two = ingresses(daemon)
        assert len(two) == 2
        builds.use("1.0.1")
        told = daemon.ask("upgrade")
        assert "the ingress: later, when the clients of the one before it have left" in told["result"]["changes"]
        assert ingresses(daemon) == two
    eventually(lambda: len(left := ingresses(daemon)) == 1 and left[0] not in two, "then it comes by itself")
    eventually(lambda: len(daemon.status()["jobs"][0]["workers"]) == 2, "with its workers")
    assert ask(daemon.port, "x") == b"TRUE"  # type: ignore[attr-defined]


def test_an_ingress_that_does_not_work_is_not_taken(daemon: DaemonProcess, builds: Builds, other: Path) -> None:
    daemon.start()
    (old,) = ingresses(daemon)
    edit(other / "ingress/loop.py", "        names = {", "        raise SystemExit(3)\n        names = {")
    use(builds, other)
    with Crowd(daemon.port, reqs=4, window=20) as crowd:  # type: ignore[attr-defined]
        count(crowd)
        told = daemon.ask("upgrade")
        count(crowd)
    assert told["exit"] == 1
    assert "framework upgraded, application reloaded, ingress kept: it ended before it served" in told["error"]
    assert ingresses(daemon) == [old]
    eventually(lambda: len(daemon.status()["jobs"][0]["workers"]) == 2, "as many workers as before")
    assert ask(daemon.port, "x") == b"TRUE"  # type: ignore[attr-defined]
    assert crowd.unanswered == set()
    assert crowd.compare({n: c for n, c in effects(daemon.folder / "add.db").items() if n != "x"}).fine


def test_another_ingress_takes_the_path_of_a_unix_socket(make: Make, builds: Builds, other: Path) -> None:
    daemon = make(TWO)
    daemon.python = builds.python
    endpoint = f"ipc://{daemon.folder}/in"
    source = f'source = "zmq+rep://{daemon.folder}/in"'
    daemon.file.write_text(daemon.file.read_text().replace(f'source = "zmq+rep://127.0.0.1:{daemon.port}"', source))  # type: ignore[attr-defined]
    daemon.start()
    (old,) = ingresses(daemon)
    with zmq.Context() as context, context.socket(zmq.REQ) as early, context.socket(zmq.REQ) as late:
        for client in (early, late):
            client.linger = 0
        early.connect(endpoint)
        early.send(b"early")
        assert early.recv() == b"TRUE"
        use(builds, other)
        told = daemon.ask("upgrade")
        assert told["exit"] == 0, told
        daemon.kill(old, signal.SIGSTOP)
        late.connect(endpoint)
        late.send(b"late")
        assert late.poll(20_000), "new connections meet the new one"
        daemon.kill(old, signal.SIGCONT)
        early.send(b"early again")
        assert early.poll(20_000), "old connections are served by the old one"
    eventually(lambda: old not in ingresses(daemon), "it leaves when its clients have left")
    assert sorted(path.name for path in daemon.folder.iterdir() if path.is_socket()) == ["in"]
