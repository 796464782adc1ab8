"""What a daemon meets: a terminal that closes, few descriptors, secrets that go, a supervisor that stands still."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable

import zmq
from crowd import Crowd, ask, effects

from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]


def _files(pid: int) -> dict[int, str]:
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def test_nothing_of_who_started_it_stays(make: Make) -> None:
    """Behaviour 7: no terminal, which may close; a session each; no descriptor that was left open; the working directory is the app's."""
    daemon = make()
    terminal, inside = os.openpty()
    read, write = os.pipe()
    with socket.socket() as left_open:
        try:
            name, kept = os.ttyname(inside), {os.readlink(f"/proc/self/fd/{fd}") for fd in (write, left_open.fileno())}
            words = ["setsid", "--ctty", "--wait", *daemon.command("start")]
            fds = (write, left_open.fileno())
            started = subprocess.run(words, env=daemon.environ, stdin=inside, stdout=inside, stderr=inside, pass_fds=fds, check=False)
            assert started.returncode == 0, os.read(terminal, 4096)
            for pid, what in daemon.processes().items():
                files = _files(pid)
                assert not (kept | {name}) & set(files.values()), what
                assert files[0] == "/dev/null"
                assert all(files[fd] == "/dev/null" or files[fd].startswith("pipe:") for fd in (1, 2)), what
                assert os.getsid(pid) == pid, what
            for worker in daemon.workers():
                assert os.readlink(f"/proc/{worker['pid']}/cwd") == str(daemon.folder)
        finally:
            for fd in (terminal, inside, read, write):
                os.close(fd)
    assert ask(daemon.port, "a") == b"TRUE"  # type: ignore[attr-defined]
    assert daemon.status()["state"] == "running"


def test_begun_work_is_finished_when_it_is_told_to_stop(make: Make) -> None:
    """Behaviour 8: TERM while a handler is at work; its client gets the answer, and it was not called twice."""
    daemon = make(app="")
    daemon.file.write_text(
        "import os, time\nfrom holdfast import Job\n"
        f"class Add(Job):\n    source = 'zmq+rep://127.0.0.1:{daemon.port}'\n    store = 'sqlite:///add.db'\n"  # type: ignore[attr-defined]
        "    schema = 'CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER)'\n"
        "    def handle(self, message, db):\n"
        "        while not os.path.exists('go on'):\n            time.sleep(0.01)\n"
        "        db.execute('INSERT INTO account VALUES (:n, 1)', {'n': message.text})\n"
    )
    daemon.start()
    pid = daemon.pid
    with zmq.Context() as context, context.socket(zmq.REQ) as sock, context.socket(zmq.REQ) as late:
        sock.linger = late.linger = 0
        sock.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        sock.send(b"a")
        eventually(lambda: any(w["in_flight"] for w in daemon.workers()), "it is begun")
        daemon.kill(pid, signal.SIGTERM)
        eventually(lambda: daemon.status().get("step") == "draining the ingress", "the ingress was told to read nothing new")
        late.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        late.send(b"late")
        (daemon.folder / "go on").touch()
        assert sock.poll(60_000), "no answer"
        assert sock.recv() == b"TRUE"
        eventually(lambda: not daemon.processes(), "all are gone")
        assert not late.poll(0), "nothing new is begun"
    assert effects(daemon.folder / "add.db") == {"a": 1}


def test_a_handler_that_asks_for_more_time_is_left_alone(make: Make) -> None:
    """Behaviour 27."""
    daemon = make('[jobs.Add]\ntimeout = "1s"\n')
    long = 'if message.text.endswith("long"):\n            message.extend(3600)\n            time.sleep(2)\n'
    first = "name, _, how"  # it asks before it does anything that takes time
    daemon.file.write_text(daemon.file.read_text().replace(first, f"{long}        {first}"))
    daemon.start()
    (worker,) = daemon.workers()
    assert ask(daemon.port, "a,long") == b"TRUE"  # type: ignore[attr-defined]
    assert [w["pid"] for w in daemon.workers()] == [worker["pid"]]
    assert "worker.hung" not in daemon.log()
    assert effects(daemon.folder / "add.db") == {"a": 1}


def test_workers_work_on_while_the_supervisor_stands_still(make: Make) -> None:
    """Behaviour 33."""
    daemon = make("[jobs.Add]\nprocesses = 2\n")
    daemon.start()
    before = set(daemon.processes())  # by PID: one that was forked just now may not have its name yet
    daemon.kill(daemon.pid, signal.SIGSTOP)
    try:
        with Crowd(daemon.port, reqs=4, window=10) as crowd:  # type: ignore[attr-defined]
            eventually(lambda: crowd.answered > 500, "they are served")
    finally:
        daemon.kill(daemon.pid, signal.SIGCONT)
    assert crowd.unanswered == set()
    assert crowd.compare(effects(daemon.folder / "add.db")).fine
    assert daemon.status()["state"] == "running"
    assert set(daemon.processes()) == before


def test_a_replacement_has_the_secrets_that_were_loaded(make: Make) -> None:
    """A secret's file changes, then goes: who dies is replaced with what was read when the generation was loaded. A reload reads it."""
    daemon = make('probation = "0s"\n[jobs.Add]\nsource = "${ADDRESS}"\n')
    secret = daemon.folder / "secret"
    daemon.toml.write_text(daemon.toml.read_text() + f'store = "file:{secret}"\n')
    secret.write_text(f"sqlite:///{daemon.folder}/one.db\n")
    daemon.environ["ADDRESS"] = f"zmq+rep://127.0.0.1:{daemon.port}"  # type: ignore[attr-defined]
    daemon.start()
    for number, change in enumerate((lambda: secret.write_text(f"sqlite:///{daemon.folder}/two.db\n"), secret.unlink)):
        change()
        (worker,) = eventually(daemon.workers, "a worker is active")
        daemon.kill(worker["pid"])
        assert ask(daemon.port, f"a{number}") == b"TRUE"  # type: ignore[attr-defined]
    assert effects(daemon.folder / "one.db") == {"a0": 1, "a1": 1}
    assert not (daemon.folder / "two.db").exists()
    told = daemon.run("reload")
    assert (told.returncode, "secret" in told.stderr) == (1, True), told.stderr
    secret.write_text(f"sqlite:///{daemon.folder}/two.db\n")
    assert daemon.run("reload").returncode == 0
    assert ask(daemon.port, "b") == b"TRUE"  # type: ignore[attr-defined]
    assert effects(daemon.folder / "two.db") == {"b": 1}


def test_at_the_limit_of_descriptors_clients_wait_until_there_is_room(make: Make) -> None:
    """Faults 24: accepting pauses, those who are there are served, and it goes on when they leave."""
    daemon = make()
    words = ["prlimit", "--nofile=320:320", *daemon.command("start")]
    started = subprocess.run(words, env=daemon.environ, capture_output=True, text=True, check=False)
    assert started.returncode == 0, started.stderr
    eventually(lambda: "clients.limited" in daemon.log(), "it is said")
    with zmq.Context() as context, context.socket(zmq.REQ) as inside, context.socket(zmq.REQ) as outside:
        inside.linger = outside.linger = 0
        inside.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        inside.send(b"a")
        assert inside.recv() == b"TRUE"
        others = [context.socket(zmq.DEALER) for _ in range(200)]
        for other in others:
            other.linger = 0
            other.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        eventually(lambda: daemon.status()["jobs"][0]["ingress"]["clients"] >= _most(daemon), "it is full")
        outside.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        outside.send(b"b")
        inside.send(b"c")
        assert inside.recv() == b"TRUE"
        assert not outside.poll(0)
        (worker,) = daemon.workers()
        daemon.kill(worker["pid"])
        eventually(lambda: [w for w in daemon.workers() if w["pid"] != worker["pid"]], "there is room for another worker")
        for other in others:
            other.close()
        assert outside.poll(60_000), "there is room again, and nobody came in"
        assert outside.recv() == b"TRUE"
    assert effects(daemon.folder / "add.db") == {"a": 1, "b": 1, "c": 1}


def _most(daemon: DaemonProcess) -> int:
    """How many clients the limit allows, as the log says."""
    line = next(line for line in daemon.log().splitlines() if "clients.limited" in line)
    return int(line.partition("allows ")[2].split()[0])
