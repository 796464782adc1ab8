"""Reload: new code and configuration under load with the same PID; what is broken changes nothing (G5)."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
from crowd import effects

from holdfast.linux.autogroup import FULL, MODEST, set_share
from holdfast.testing.crowd import Crowd
from holdfast.testing.daemon import DaemonProcess, eventually, free_port

Make = Callable[..., DaemonProcess]

APP = """
import os, sys, time
from holdfast import Daemon, Job
{top}

class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "sqlite:///{folder}/add.db"
    schema = "CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER)"
    processes = 2

    def setup(self):
        {setup}

    def handle(self, message, db):
        db.execute("INSERT INTO account VALUES (:n, 1)", {{"n": message.text}})
        {handle}
        return "{version}"
{more}
if __name__ == "__main__":
    Daemon(Add).main()
"""
QUICK = 'probation = "0s"\n'


def write(daemon: DaemonProcess, version: int, **parts: str) -> None:
    """Put this version's code into the app file, whole."""
    given = {"top": "", "setup": "pass", "handle": "pass", "more": "", **parts}
    new = daemon.folder / "app.new"
    new.write_text(APP.format(port=daemon.port, folder=daemon.folder, version=version, **given))  # type: ignore[attr-defined]
    new.rename(daemon.file)


@pytest.fixture
def daemon(make: Make) -> DaemonProcess:
    one = make(QUICK)
    write(one, 1)
    return one


def ask(port: int, text: str = "x") -> str:
    """One question by a client of its own."""
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(f"tcp://127.0.0.1:{port}")
        sock.send(text.encode())
        assert sock.poll(20_000), "no answer"
        return str(sock.recv().decode())


def pids(daemon: DaemonProcess) -> set[int]:
    return {worker["pid"] for worker in daemon.workers()}


@pytest.mark.skipif(not set_share(FULL), reason="this kernel knows no sessions' shares")
def test_an_import_beside_workers_that_serve_takes_a_modest_share_of_the_processor(daemon: DaemonProcess) -> None:
    top, handle = 'SHARE = open("/proc/self/autogroup").read()', 'return SHARE + open("/proc/self/autogroup").read()'
    write(daemon, 1, top=top, handle=handle)
    daemon.start()
    assert [line.split()[-1] for line in ask(daemon.port).splitlines()] == [str(FULL), str(FULL)]  # type: ignore[attr-defined]
    assert daemon.run("reload").returncode == 0
    assert [line.split()[-1] for line in ask(daemon.port).splitlines()] == [str(MODEST), str(FULL)]  # type: ignore[attr-defined]
    eventually(lambda: _zygotes_shares(daemon) == [str(FULL)], "the zygote has its full share again")


def _zygotes_shares(daemon: DaemonProcess) -> list[str]:
    with contextlib.suppress(OSError):
        pids = (pid for pid, name in daemon.processes().items() if name == "hf:zygote")
        return [Path(f"/proc/{pid}/autogroup").read_text().split()[-1] for pid in pids]
    return []  # one has just gone


def test_new_code_is_taken_with_the_same_pid(daemon: DaemonProcess) -> None:
    daemon.start()
    pid, old = daemon.pid, pids(daemon)
    assert ask(daemon.port) == "1"  # type: ignore[attr-defined]
    write(daemon, 2)
    told = daemon.run("reload")
    assert (told.returncode, told.stderr) == (0, "")
    assert f"generation 2 (pid {pid})" in told.stdout
    assert ask(daemon.port) == "2"  # type: ignore[attr-defined]
    assert daemon.pid == pid
    assert not pids(daemon) & old
    eventually(lambda: sorted(daemon.processes().values()).count("hf:zygote") == 1, "the old zygote has gone")
    assert [w["generation"] for w in daemon.workers()] == [2, 2]


def _toml(daemon: DaemonProcess, text: str) -> None:
    daemon.toml.write_text(daemon.toml.read_text() + text)


def _user(daemon: DaemonProcess, **those: str) -> None:
    lines = [line for line in daemon.toml.read_text().splitlines() if line.partition(" =")[0] not in those]
    daemon.toml.write_text("\n".join([*lines, *(f'{key} = "{value}"' for key, value in those.items())]) + "\n")


def _busy_port(daemon: DaemonProcess) -> socket.socket:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    _toml(daemon, f'[jobs.Add]\nsource = "zmq+rep://127.0.0.1:{taken.getsockname()[1]}"\n')
    return taken


BROKEN: dict[str, tuple[Callable[[DaemonProcess], object], str]] = {
    "broken TOML": (lambda d: _toml(d, "[daemon\n"), "holdfast.toml:9" if os.geteuid() == 0 else "holdfast.toml:8"),  # root says who
    "unknown key": (lambda d: _toml(d, 'probtion = "1s"\n'), "did you mean 'probation'"),
    "wrong value": (lambda d: _toml(d, '[jobs.Add]\nprocesses = "many"\n'), "jobs.Add.processes"),
    "no such job": (lambda d: _toml(d, "[jobs.Nobody]\n"), "Nobody"),
    "another name": (lambda d: d.toml.write_text(d.toml.read_text().replace('name = "t"', 'name = "u"')), "name cannot change by a reload"),
    "another run_dir": (lambda d: d.toml.write_text(d.toml.read_text().replace('"run"', '"other"')), "run_dir cannot change"),
    "another user": (lambda d: _user(d, user="nobody"), "user cannot change"),
    "another group": (lambda d: _user(d, group="nogroup"), "group cannot change"),
    "another state_dir": (lambda d: d.toml.write_text(d.toml.read_text().replace('"state"', '"other"')), "state_dir cannot change"),
    "missing settings": (lambda d: _toml(d, 'settings = "none.ini"\n'), "none.ini"),
    "syntax error": (lambda d: write(d, 2, top="x x x"), "SyntaxError"),
    "failing import": (lambda d: write(d, 2, top="import nothing_of_the_kind"), "ModuleNotFoundError"),
    "import that exits": (lambda d: write(d, 2, top="sys.exit(3)"), "SystemExit"),
    "import that is killed": (lambda d: write(d, 2, top="os.kill(os.getpid(), 11)"), "SIGSEGV"),
    "no Job": (lambda d: d.file.write_text("x = 1\n"), "Job"),
    "failing setup": (lambda d: write(d, 2, setup="raise ValueError('no such host')"), "ValueError: no such host"),
    "setup that exits": (lambda d: write(d, 2, setup="os._exit(7)"), "exit status 7"),
    "setup that dies": (lambda d: write(d, 2, setup="os.kill(os.getpid(), 6)"), "SIGABRT"),
    "failing prepare": (lambda d: write(d, 2, more="    @classmethod\n    def prepare(cls, db):\n        raise OSError('disk')\n"), "disk"),
    "busy port": (_busy_port, "in use by another process"),
    "store that is away": (lambda d: _toml(d, '[jobs.Add]\nstore = "postgresql://x@127.0.0.1:1/x"\n'), "the store is not to be had"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused_with_its_reason_and_changes_nothing(daemon: DaemonProcess, what: str) -> None:
    daemon.start()
    before = set(daemon.processes())
    old = pids(daemon)
    break_it, reason = BROKEN[what]
    toml = daemon.toml.read_text()
    kept = break_it(daemon)
    told = daemon.ask("reload")
    daemon.toml.write_text(toml)
    assert told["exit"] == 1
    assert reason in told["error"] + told.get("trace", "")
    assert pids(daemon) == old
    assert daemon.status()["generation"] == 1
    assert daemon.status()["last_reload"]["error"] == told["error"]
    assert ask(daemon.port) == "1"  # type: ignore[attr-defined]
    eventually(lambda: set(daemon.processes()) == before, "nothing of the refused generation is left")
    if isinstance(kept, socket.socket):
        kept.close()


def test_a_broken_reload_can_be_mended(daemon: DaemonProcess) -> None:
    daemon.start()
    write(daemon, 2, top="x x x")
    told = daemon.run("reload")
    assert told.returncode == 1
    assert "SyntaxError" in told.stderr
    assert "runs on as it was" in told.stderr
    write(daemon, 3)
    assert daemon.run("reload").returncode == 0
    assert ask(daemon.port) == "3"  # type: ignore[attr-defined]


def test_reloading_what_does_not_run_says_so(daemon: DaemonProcess) -> None:
    assert daemon.run("reload").returncode == 7


def test_code_that_dies_in_its_probation_is_rolled_back_on_every_slot(make: Make) -> None:
    daemon = make('probation = "20s"\n[jobs.Add]\ncrash_limit = 100\n')
    write(daemon, 1)
    daemon.start()
    with Crowd(daemon.port, reqs=4, window=10) as crowd:  # type: ignore[attr-defined]
        eventually(lambda: len(crowd.story) > 20, "the load has begun")
        write(daemon, 2, handle="os._exit(3)")
        told = daemon.run("reload")
        assert told.returncode == 1
        assert "rolled back" in told.stderr
        assert {w["generation"] for w in daemon.workers()} <= {1}
        eventually(lambda: [w["generation"] for w in daemon.workers()] == [1, 1], "the old code has both places again")
        count = len(crowd.story)
        eventually(lambda: len(crowd.story) > count + 20, "the old code goes on")
    assert crowd.unanswered == set()
    assert {answer for answers in crowd.answers.values() for answer in answers} == {b"1"}
    assert crowd.compare(effects(daemon.folder / "add.db")).fine


def test_many_hups_end_in_the_newest_files(daemon: DaemonProcess) -> None:
    daemon.start()
    pid = daemon.pid
    for version in range(2, 12):
        write(daemon, version)
        daemon.kill(pid, signal.SIGHUP)
    eventually(lambda: ask(daemon.port) == "11", "the newest version answers")  # type: ignore[attr-defined]
    assert daemon.run("reload").returncode == 0
    assert daemon.pid == pid
    assert daemon.status()["generation"] < 12, "reloads that came meanwhile were merged"


def test_reloads_that_come_together_all_get_a_verdict(daemon: DaemonProcess) -> None:
    daemon.start()
    told: list[int] = []
    threads = [threading.Thread(target=lambda: told.append(daemon.run("reload").returncode)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [0] * 5


def test_a_load_does_not_notice_reloads_of_different_code(daemon: DaemonProcess) -> None:
    daemon.start()
    pid = daemon.pid
    with Crowd(daemon.port, reqs=8, window=50) as crowd:  # type: ignore[attr-defined]
        eventually(lambda: len(crowd.story) > 50, "the load has begun")
        for version in range(2, 7):
            write(daemon, version)
            assert daemon.run("reload").returncode == 0
            assert ask(daemon.port, f"probe {version}") == str(version)  # type: ignore[attr-defined]
            eventually(lambda version=version: crowd.story[-1].text == str(version).encode(), "the load meets it")
    assert daemon.pid == pid
    assert crowd.unanswered == set()
    versions = {answer for answers in crowd.answers.values() for answer in answers}
    assert versions == {str(v).encode() for v in range(1, 7)}
    done = effects(daemon.folder / "add.db")
    assert crowd.compare({name: n for name, n in done.items() if not name.startswith("probe")}).fine


def test_nobody_waits_for_the_import_of_new_code(daemon: DaemonProcess) -> None:
    daemon.start()
    write(daemon, 2, top="while not os.path.exists('go on'):\n    time.sleep(0.01)")
    with Crowd(daemon.port, reqs=8, window=50) as crowd:  # type: ignore[attr-defined]
        with subprocess.Popen(daemon.command("reload"), env=daemon.environ, stdout=subprocess.DEVNULL) as reload:
            eventually(lambda: "reload" in daemon.status(), "it is under way")
            before = crowd.answered
            eventually(lambda: crowd.answered > before + 200, "clients are answered while it is imported")
            assert reload.poll() is None
            (daemon.folder / "go on").touch()
            assert reload.wait(60) == 0
        eventually(lambda: {b"2"} in crowd.answers.values(), "the new code answers")
    assert crowd.unanswered == set()
    assert {answer for answers in crowd.answers.values() for answer in answers} == {b"1", b"2"}
    assert crowd.compare(effects(daemon.folder / "add.db")).fine


def test_configuration_rolls_the_same_way(daemon: DaemonProcess) -> None:
    daemon.start()
    _toml(daemon, "[jobs.Add]\nprocesses = 3\nbatch = 7\n")
    told = daemon.run("reload")
    assert told.returncode == 0, told.stderr
    assert "jobs.Add.processes: 2 -> 3" in told.stdout
    assert "jobs.Add.batch: 500 -> 7" in told.stdout
    assert len(daemon.workers()) == 3
    daemon.toml.write_text(daemon.toml.read_text().replace("processes = 3", "processes = 1"))
    assert daemon.run("reload").returncode == 0
    eventually(lambda: len(daemon.status()["jobs"][0]["workers"]) == 1, "two have gone")


def test_another_address_is_open_before_the_old_one_is_given_up(daemon: DaemonProcess) -> None:
    daemon.start()
    other = free_port()
    with zmq.Context() as context, context.socket(zmq.REQ) as there:
        there.linger = 0
        there.connect(f"tcp://127.0.0.1:{daemon.port}")  # type: ignore[attr-defined]
        there.send(b"before")
        assert there.recv() == b"1"
        _toml(daemon, f'[jobs.Add]\nsource = "zmq+rep://127.0.0.1:{other}"\n')
        assert daemon.run("reload").returncode == 0
        assert ask(other) == "1"
        there.send(b"after")
        assert there.poll(20_000), "a client of the old address is served on"
        assert there.recv() == b"1"
    eventually(lambda: _refused(daemon.port), "the old address is free once its clients have left")  # type: ignore[attr-defined]


def test_the_largest_message_changes_with_the_address_only(daemon: DaemonProcess) -> None:
    daemon.start()
    before = pids(daemon)
    _toml(daemon, '[jobs.Add]\nmax_message = "2MiB"\n')
    told = daemon.run("reload")
    assert (told.returncode, pids(daemon)) == (1, before)
    assert "job Add: max_message cannot change by a reload while the address stays: it is 1MiB and would be 2MiB" in told.stderr
    other = free_port()
    _toml(daemon, f'source = "zmq+rep://127.0.0.1:{other}"\n')
    assert daemon.run("reload").returncode == 0
    assert ask(other, "x" * (3 << 19)) == "1"


def test_an_address_that_still_serves_its_old_clients_cannot_be_taken_again_before_they_leave(daemon: DaemonProcess) -> None:
    daemon.start()
    toml, other, first = daemon.toml.read_text(), free_port(), daemon.port  # type: ignore[attr-defined]
    with zmq.Context() as context, context.socket(zmq.REQ) as there:
        there.linger = 0
        there.connect(f"tcp://127.0.0.1:{first}")
        there.send(b"before")
        assert there.recv() == b"1"
        _toml(daemon, f'[jobs.Add]\nsource = "zmq+rep://127.0.0.1:{other}"\n')
        assert daemon.run("reload").returncode == 0
        before = pids(daemon)
        daemon.toml.write_text(toml)
        told = daemon.run("reload")
        assert told.returncode == 1
        assert f"127.0.0.1:{first} was given up" in told.stderr
        assert "try again when they have left" in told.stderr
        assert pids(daemon) == before
        assert ask(other) == "1"
        there.send(b"after")
        assert there.recv() == b"1"
    eventually(lambda: daemon.run("reload").returncode == 0, "it can be had again")
    assert ask(first, "again") == "1"


def test_the_address_of_a_refused_reload_is_closed_again(daemon: DaemonProcess) -> None:
    daemon.start()
    other = free_port()
    _toml(daemon, f'[jobs.Add]\nsource = "zmq+rep://127.0.0.1:{other}"\n')
    write(daemon, 2, setup="raise ValueError('no such host')")
    assert daemon.run("reload").returncode == 1
    eventually(lambda: _refused(other), "nobody listens there")
    assert ask(daemon.port) == "1"  # type: ignore[attr-defined]


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 111


def test_jobs_come_and_go(daemon: DaemonProcess) -> None:
    daemon.start()
    more = free_port()
    write(
        daemon,
        2,
        more=f"""
class More(Job):
    source = "zmq+rep://127.0.0.1:{more}"

    def handle(self, message):
        return "more"
""",
    )
    daemon.file.write_text(daemon.file.read_text().replace("Daemon(Add)", "Daemon(Add, More)"))
    told = daemon.run("reload")
    assert told.returncode == 0, told.stderr
    assert "jobs.More is new" in told.stdout
    assert ask(more) == "more"
    write(daemon, 3)
    told = daemon.run("reload")
    assert "jobs.More is removed" in told.stdout, told.stderr
    assert [job["name"] for job in daemon.status()["jobs"]] == ["Add"]
    assert len(pids(daemon)) == 2
    eventually(lambda: _refused(more), "its address is free")


def test_the_log_can_move(daemon: DaemonProcess, tmp_path: Path) -> None:
    daemon.start()
    elsewhere = tmp_path / "elsewhere.log"
    _toml(daemon, f'log = "{elsewhere}"\n')
    assert daemon.run("reload").returncode == 0
    eventually(elsewhere.exists, "there is another logger")
    assert daemon.run("reload").returncode == 0
    eventually(lambda: "reload.done" in elsewhere.read_text(), "the new log is written")
    assert all(line in daemon.log() + elsewhere.read_text() for line in ("reload.begun", "reload.done"))


def test_a_replacement_runs_what_was_loaded_and_not_what_the_files_say(daemon: DaemonProcess) -> None:
    daemon.start()
    for break_it in (lambda: write(daemon, 2), lambda: daemon.file.write_text("x x"), daemon.file.unlink):
        break_it()
        old = pids(daemon)
        for pid in old:
            daemon.kill(pid)
        eventually(lambda old=old: len(pids(daemon) - old) == 2, "both are replaced")
        assert ask(daemon.port) == "1"  # type: ignore[attr-defined]


def _kill_zygotes(daemon: DaemonProcess) -> list[int]:
    both = [pid for pid, name in daemon.processes().items() if name in ("hf:zygote", "hf:twin")]
    for pid in both:
        daemon.kill(pid, signal.SIGSTOP)
    for pid in both:
        daemon.kill(pid)
    return both


def test_without_zygote_and_twin_the_same_files_will_do(daemon: DaemonProcess) -> None:
    daemon.start()
    dead = _kill_zygotes(daemon)
    eventually(lambda: [1 for pid, name in daemon.processes().items() if name == "hf:twin" and pid not in dead], "there is a twin again")
    assert daemon.status()["state"] == "running"
    old = pids(daemon)
    daemon.kill(min(old))
    eventually(lambda: len(pids(daemon) - {min(old)}) == 2, "it is replaced")


def test_without_zygote_and_twin_other_files_are_a_lost_generation_until_a_reload(daemon: DaemonProcess) -> None:
    daemon.start()
    write(daemon, 2)
    _kill_zygotes(daemon)
    eventually(lambda: daemon.status()["state"] == "generation lost", "it is said")
    assert ask(daemon.port) == "1", "who lives works on"  # type: ignore[attr-defined]
    assert daemon.run("reload").returncode == 0
    assert daemon.status()["state"] == "running"
    assert ask(daemon.port) == "2"  # type: ignore[attr-defined]


def test_scale_by_command_and_by_signal(daemon: DaemonProcess) -> None:
    daemon.start()
    with Crowd(daemon.port, reqs=4, window=20) as crowd:  # type: ignore[attr-defined]
        assert daemon.run("scale", "Add", "4").stdout == "Add: 2 -> 4 workers\n"
        eventually(lambda: len(daemon.workers()) == 4, "four work")
        daemon.kill(daemon.pid, signal.SIGTTOU)
        eventually(lambda: len(daemon.status()["jobs"][0]["workers"]) == 3, "one has gone")
        daemon.kill(daemon.pid, signal.SIGTTIN)
        eventually(lambda: len(daemon.workers()) == 4, "one more")
        assert daemon.run("reload").returncode == 0
        eventually(lambda: len(daemon.workers()) == 4, "an operator's word outlives a reload")
        assert daemon.run("scale", "Add", "1").returncode == 0
        eventually(lambda: len(daemon.status()["jobs"][0]["workers"]) == 1, "one is left")
    assert crowd.unanswered == set()
    assert crowd.compare(effects(daemon.folder / "add.db")).fine
    assert daemon.run("scale", "Nobody", "1").returncode == 2
    assert daemon.run("scale", "Add", "many").returncode == 2


def test_a_crash_loop_becomes_a_failed_job_and_a_reload_mends_it(daemon: DaemonProcess) -> None:
    flag = daemon.folder / "crash"
    write(daemon, 1, setup=f"os.path.exists({str(flag)!r}) and os._exit(3)")
    daemon.start()
    flag.touch()
    daemon.kill(min(pids(daemon)))
    eventually(lambda: daemon.status()["jobs"][0]["state"] == "failed", "the job has failed")
    assert ask(daemon.port) == "1", "the others run on"  # type: ignore[attr-defined]
    write(daemon, 2)
    assert daemon.run("reload").returncode == 0
    assert daemon.status()["jobs"][0]["state"] == "running"
    assert len(daemon.workers()) == 2
