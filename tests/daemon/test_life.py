"""The life cycle from outside (behaviours 1-9, 11, 30, 31, 34, 35; G1, G2, G7)."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import Crowd, ask, effects

from holdfast.linux import process
from holdfast.linux.process import start_time
from holdfast.testing.daemon import DaemonProcess, eventually, free_port

Make = Callable[..., DaemonProcess]


def test_start_serves_and_stop_leaves_nothing(make: Make) -> None:
    daemon = make()
    daemon.start()
    assert ask(daemon.port, "a") == b"TRUE"
    assert daemon.run("start").returncode == 0
    assert [daemon.run("status").returncode, daemon.run("stop").returncode, daemon.run("status").returncode] == [0, 0, 3]
    assert daemon.processes() == {}
    assert not (daemon.folder / "run" / "t.pid").exists()
    assert effects(daemon.folder / "add.db") == {"a": 1}
    again = daemon.run("stop")
    assert (again.returncode, "is not running" in again.stdout + again.stderr) == (0, True)


@pytest.mark.parametrize(
    ("app", "status", "said"),
    [
        ("import no_such_module\n", 1, "no_such_module"),
        ("def broken(:\n", 1, "SyntaxError"),
        ("x = 1\n", 1, "no Job"),
        ("from holdfast import Job\nclass A(Job):\n    def handle(self, m): ...\n    def run(self): ...\n", None, "both"),
        ("from holdfast import Job\nclass A(Job):\n    source = 'zmq+rop://h:1'\n    def handle(self, m): ...\n", 2, "zmq+rep"),
        ("from holdfast import Job\nclass A(Job):\n    source = 'amqp://h/v'\n    def handle(self, m): ...\n", 2, "names no queue"),
        (
            "from holdfast import Job\nclass A(Job):\n    def run(self): ...\n    def setup(self): raise OSError('the bank is closed')\n",
            1,
            "the bank is closed",
        ),
        ("import os\nos._exit(7)\n", 1, "exit status 7"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(make: Make, app: str, status: int | None, said: str) -> None:
    daemon = make(app=app)
    told = daemon.run("start")
    assert said in told.stderr
    assert told.returncode == status if status else told.returncode in (1, 2)
    assert daemon.processes() == {}
    assert not (daemon.folder / "run" / "t.pid").exists()
    assert not (daemon.folder / "run" / "t.sock").exists()
    assert daemon.run("status").returncode == 3


def test_a_busy_port_has_its_own_exit_status(make: Make) -> None:
    daemon = make()
    with socket.socket() as other:
        other.bind(("127.0.0.1", daemon.port))
        other.listen()
        told = daemon.run("start")
    assert (told.returncode, "is in use by another process" in told.stderr) == (5, True)
    assert daemon.processes() == {}


@pytest.mark.parametrize(
    ("key", "url", "said"),
    [
        ("source", "amqp://guest:secret@127.0.0.1:{port}/?queue=q", "start_timeout, 2 s"),
        ("store", "mysql://nobody:secret@127.0.0.1:{port}/db", "the store is not to be had"),
        ("store", "postgresql://nobody:secret@127.0.0.1:{port}/db", "the store is not to be had"),
    ],
)
def test_a_broker_or_store_that_is_not_there_in_time_has_the_same(make: Make, key: str, url: str, said: str) -> None:
    """Behaviour 3. A broker is waited for, to the limit."""
    limit = 'start_timeout = "2s"\n' if key == "source" else ""
    daemon = make(f'{limit}[jobs.Add]\n{key} = "{url.format(port=free_port())}"\n')
    told = daemon.run("start")
    assert (told.returncode, said in told.stderr, "secret" in told.stderr) == (5, True, False), told.stderr
    assert daemon.processes() == {}
    assert not (daemon.folder / "run" / "t.pid").exists()


def test_fifty_starts_at_once_make_one_daemon(make: Make) -> None:
    daemon = make("start_timeout = '120s'\n")
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        told = list(pool.map(lambda _n: daemon.run("start"), range(50)))
    assert [one.returncode for one in told] == [0] * 50, [one.stderr for one in told if one.returncode]
    assert sum("is ready (pid" in one.stdout for one in told) == 1
    assert {f"(pid {daemon.pid})" in one.stdout for one in told} == {True}
    assert sum(name == "hf:supervisor" for name in daemon.processes().values()) == 1


def test_the_pid_file_names_who_answers(make: Make) -> None:
    daemon = make()
    daemon.start()
    path = daemon.folder / "run" / "t.pid"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert daemon.pid == daemon.status()["pid"]
    assert stat.S_IMODE((daemon.folder / "run" / "t.sock").stat().st_mode) == 0o600


def test_a_stale_pid_file_of_a_stranger_does_not_matter(make: Make) -> None:
    daemon = make()
    (daemon.folder / "run").mkdir()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as stranger:
        (daemon.folder / "run" / "t.pid").write_text(f"{stranger.pid}\n")
        assert daemon.run("status").returncode == 1
        assert daemon.run("stop").returncode == 0
        daemon.start()
        assert stranger.poll() is None
        stranger.communicate()


def test_every_process_is_a_proper_daemon(make: Make) -> None:
    daemon = make()
    daemon.start()
    for pid in daemon.processes():
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        with open(f"/proc/{pid}/stat") as file:
            assert file.read().rpartition(")")[2].split()[4] == "0", "it has a terminal"
        with open(f"/proc/{pid}/status") as file:
            status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        assert status["Umask"].strip() == "0077"
    assert os.getsid(daemon.pid) == daemon.pid


def test_a_killed_supervisor_leaves_no_mess(make: Make) -> None:
    daemon = make()
    daemon.start()
    old = daemon.processes()
    daemon.kill(daemon.pid)
    eventually(lambda: daemon.run("status").returncode == 1, "the status says that it died")
    daemon.start()
    assert ask(daemon.port, "a") == b"TRUE"
    eventually(lambda: not set(daemon.processes()) & set(old), "the old ones are gone")


def test_a_killed_supervisor_takes_its_workers_along(make: Make) -> None:
    daemon = make()
    daemon.start()
    daemon.kill(daemon.pid)
    eventually(lambda: not daemon.processes(), "all are gone")
    assert (daemon.folder / "run" / "t.pid").exists()


def test_stop_under_load_loses_nothing_that_was_answered(make: Make) -> None:
    daemon = make()
    daemon.start()
    with Crowd(daemon.port, patience=3.0) as crowd:
        eventually(lambda: crowd.answered > 500, "the load has begun")
        assert daemon.run("stop").returncode == 0
        crowd.stop.set()
    done = effects(daemon.folder / "add.db")
    assert daemon.processes() == {}
    assert {name: done[name] for name in crowd.answers} == dict.fromkeys(crowd.answers, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_to_stop_does_not_wait(make: Make, number: int) -> None:
    daemon = make("stop_timeout = '600s'\n")
    daemon.start()
    pid = daemon.pid
    import zmq

    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(f"tcp://127.0.0.1:{daemon.port}")
        sock.send(b"a,hang")
        eventually(lambda: any(w["in_flight"] for w in daemon.workers()), "the handler hangs")
        daemon.kill(pid, number)
        eventually(lambda: daemon.status()["state"] == "stopping", "it stops")
        daemon.kill(pid, number)
        eventually(lambda: not daemon.processes(), "all are gone")
    assert effects(daemon.folder / "add.db") == {}


def test_a_handler_that_does_not_end_is_ended_at_the_limit(make: Make) -> None:
    daemon = make("stop_timeout = '1s'\n")
    daemon.start()
    import zmq

    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(f"tcp://127.0.0.1:{daemon.port}")
        sock.send(b"a,hang")
        eventually(lambda: any(w["in_flight"] for w in daemon.workers()), "the handler hangs")
        told = daemon.run("stop")
    assert (told.returncode, told.stderr, daemon.processes()) == (0, "", {}), "the supervisor has seen to it, it was not killed"
    assert effects(daemon.folder / "add.db") == {}


def test_a_run_directory_that_is_gone_stops_nothing(make: Make) -> None:
    daemon = make()
    daemon.start()
    pid, run = daemon.pid, daemon.folder / "run"
    away = run.rename(daemon.folder / "away")
    (worker,) = [pid for pid, name in daemon.processes().items() if name == "hf:Add/0"]
    daemon.kill(worker)
    eventually(lambda: {p for p, name in daemon.processes().items() if name == "hf:Add/0"} - {worker}, "it is replaced")
    assert ask(daemon.port, "a") == b"TRUE"
    eventually(lambda: "children.unwritten" in daemon.log(), "that is in the log")
    away.rename(run)
    assert daemon.pid == pid
    assert daemon.run("stop").returncode == 0


def test_restart_keeps_the_pid(make: Make) -> None:
    daemon = make()
    daemon.start()
    before, began = daemon.pid, start_time(daemon.pid)
    assert ask(daemon.port, "a") == b"TRUE"
    told = daemon.run("restart")
    assert told.returncode == 0, told.stderr
    assert (daemon.pid, start_time(daemon.pid)) == (before, began)
    assert ask(daemon.port, "b") == b"TRUE"
    assert effects(daemon.folder / "add.db") == {"a": 1, "b": 1}


def test_a_restart_that_would_fail_changes_nothing(make: Make) -> None:
    daemon = make()
    daemon.start()
    workers = [worker["pid"] for worker in daemon.workers()]
    text = daemon.file.read_text()
    daemon.file.write_text("def broken(:\n")
    assert daemon.run("restart").returncode != 0
    assert [worker["pid"] for worker in daemon.workers()] == workers
    daemon.file.write_text(text)


def test_foreground_runs_in_place_and_int_stops_it(make: Make) -> None:
    daemon = make()
    with subprocess.Popen(
        daemon.command("foreground"), env=daemon.environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        eventually(lambda: (daemon.folder / "run" / "t.sock").exists() and daemon.status()["state"] == "running", "it is ready")
        assert daemon.pid == running.pid
        assert ask(daemon.port, "a") == b"TRUE"
        running.send_signal(signal.SIGINT)
        _, log = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "daemon.ready" in log


def test_it_works_as_init_of_a_container(make: Make) -> None:
    if os.geteuid() != 0:
        return
    daemon = make()
    command = ["unshare", "--pid", "--fork", "--mount-proc", *daemon.command("foreground")]
    with subprocess.Popen(command, env=daemon.environ, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        eventually(lambda: (daemon.folder / "run" / "t.sock").exists() and daemon.status()["state"] == "running", "it is ready")
        assert daemon.status()["pid"] == 1
        assert ask(daemon.port, "a,helper") == b"TRUE"
        (init,) = [pid for pid, name in daemon.processes().items() if name == "hf:supervisor"]
        daemon.kill(init, signal.SIGHUP)
        eventually(lambda: daemon.status()["generation"] == 2, "a signal from outside of the container is obeyed")
        assert ask(daemon.port, "b") == b"TRUE"
        daemon.kill(init, signal.SIGTERM)
        running.communicate(timeout=60)
    assert running.returncode == 0
    assert daemon.processes() == {}
    assert effects(daemon.folder / "add.db") == {"a": 1, "b": 1}


def test_helpers_that_user_code_left_behind_are_gone_after_stop(make: Make) -> None:
    daemon = make()
    daemon.start()
    known = set(daemon.processes())
    assert ask(daemon.port, "a,helper") == b"TRUE"
    eventually(lambda: set(daemon.processes()) - known, "the helper is there")
    assert daemon.run("stop").returncode == 0
    assert daemon.processes() == {}
    assert effects(daemon.folder / "add.db") == {"a": 1}


def test_no_zombie_stays(make: Make) -> None:
    daemon = make("[jobs.Add]\nprocesses = 3\n")
    daemon.start()
    for _ in range(5):
        before = {worker["pid"] for worker in daemon.workers()}
        for pid in before:
            daemon.kill(pid)
        eventually(lambda before=before: len({w["pid"] for w in daemon.workers() if w["pid"]} - before) == 3, "three new ones")
    eventually(lambda: "Z" not in _states(daemon), "nobody waits to be reaped")


def _states(daemon: DaemonProcess) -> list[str]:
    """The state of every child of every process of the daemon."""
    found = []
    for child in [child for pid in daemon.processes() for child in process.children(pid)]:
        with contextlib.suppress(OSError):  # it has just gone
            found.append(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0])
    assert found
    return found


def test_status_fits_its_form_beside_a_wedged_worker(make: Make) -> None:
    daemon = make()
    daemon.start()
    (worker,) = daemon.workers()
    daemon.kill(worker["pid"], signal.SIGSTOP)
    told = daemon.run("status", "--json")
    daemon.kill(worker["pid"], signal.SIGCONT)
    facts = json.loads(told.stdout)
    assert (told.returncode, facts["state"], facts["jobs"][0]["guarantee"]) == (0, "running", "exactly-once")
    numbers = {"handled", "failed", "retried", "dead", "duplicates", "in_flight", "rate_1m"}
    assert all(isinstance(facts["jobs"][0][name], int | float) for name in numbers)
    assert set(facts["jobs"][0]["latency_ms"]) == {"p50", "p99"}
    assert {"pid", "state", "generation", "threads", "in_flight", "handled", "rss_bytes", "uptime_s", "restarts"} <= set(
        facts["jobs"][0]["workers"][0]
    )


def test_the_control_socket_survives_garbage(make: Make) -> None:
    daemon = make()
    daemon.start()
    idle = []
    for n in range(300):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(daemon.folder / "run" / "t.sock"))
        client.sendall(b"\x00\xff{" if n % 2 else b"")
        idle.append(client)
    assert daemon.status()["state"] == "running"
    for client in idle:
        client.close()


def test_usage_is_told(make: Make) -> None:
    daemon = make()
    assert daemon.run("strat").returncode == 2
    assert "did you mean" in daemon.run("strat").stderr
    assert daemon.run("status", "--no-such-option").returncode == 4


def test_log_lines_are_whole_and_reopened(make: Make) -> None:
    daemon = make(more="    def setup(self):\n        print('hello from setup')\n")
    daemon.start()
    log = daemon.folder / "state" / "t.log"
    eventually(lambda: "hello from setup" in daemon.log(), "what user code prints is logged")
    log.rename(daemon.folder / "state" / "t.log.1")
    daemon.kill(daemon.pid, signal.SIGUSR1)
    (worker,) = daemon.workers()
    eventually(log.exists, "a new file")
    daemon.kill(worker["pid"])
    eventually(lambda: "worker.died" in daemon.log(), "lines go to the new file")
