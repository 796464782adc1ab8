"""`start`: the fast path, the report of a supervisor that is started, and many starts at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from cli_kit import STANDIN, Bench

from holdfast.cli import launching
from holdfast.cli.main import main

# The command with a stand-in in the supervisor's place.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
from holdfast.cli import launching
from holdfast.cli.main import main
standin = sys.argv.pop(1)
launching._command = lambda _kind, *more: [sys.executable, standin, *more]
sys.exit(main())
"""


def starting(bench: Bench, way: str, verb: str = "start") -> subprocess.Popen[str]:
    environ = bench.environment() | {"STANDIN": way}
    words = ["--run-dir", str(bench.run_dir), "--name", "fee"]
    command = [sys.executable, "-c", PROGRAM, STANDIN, verb, "fee.py", *words]
    return subprocess.Popen(command, cwd=bench.folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


@pytest.fixture
def stopping(bench: Bench):
    yield bench
    assert bench.holdfast("stop", "fee.py").returncode == 0


def test_it_was_running_already(bench: Bench) -> None:
    daemon = bench.daemon({"wait": [{"progress": "still"}, {"exit": 0, "result": {"pid": 4711}}]})
    done = bench.holdfast("start", "fee.py")
    assert (done.returncode, done.stdout) == (0, "fee is already running (pid 4711)\n")
    assert bench.asked() == [{"verb": "wait"}]
    assert daemon.poll() is None


def test_a_start_that_fails_elsewhere_is_told_truthfully(bench: Bench) -> None:
    bench.daemon({"wait": [{"exit": 5, "error": "the port is in use"}]})
    done = bench.holdfast("start", "fee.py")
    assert (done.returncode, done.stderr) == (5, "holdfast: the port is in use\n")


def test_ready(stopping: Bench) -> None:
    status, out, error = ended(starting(stopping, "ready"))
    pid = json.loads((stopping.run_dir / "fee.lock").read_text())["pid"]
    assert (status, out, error) == (0, f"fee is ready (pid {pid})\n", "")
    facts = json.loads((stopping.run_dir / "facts").read_text())
    assert (facts["target"], facts["foreground"], facts["session"]) == ("fee.py", False, True)
    streams = {facts["fds"][fd] for fd in ("0", "1", "2")}
    others = [int(fd) for fd, place in facts["fds"].items() if int(fd) > 2 and "/proc/" not in place]
    assert (streams, sorted(others)) == ({"/dev/null"}, sorted(facts["given"]))


def test_a_failure_is_told_with_its_trace_and_status(bench: Bench) -> None:
    assert ended(starting(bench, "fails")) == (5, "", "Traceback of the app\nholdfast: port 1 is in use\n")


def test_a_supervisor_that_dies_is_told_with_the_last_of_its_log(bench: Bench) -> None:
    (bench.folder / "state").mkdir()
    (bench.folder / "state" / "fee.log").write_text("an old line\nthe last line\n")
    status, out, error = ended(starting(bench, "dies"))
    assert (status, out) == (1, "")
    assert "the supervisor died (killed by SIGKILL) before it was ready" in error
    assert "the last line\n" in error


def test_a_start_that_is_interrupted_leaves_nothing(bench: Bench) -> None:
    process = starting(bench, "silent")
    facts = bench.run_dir / "facts"
    limit = 600
    while not facts.exists() and limit:
        limit -= 1
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    pid = json.loads((bench.run_dir / "fee.lock").read_text())["pid"]
    process.send_signal(2)
    status, _out, error = ended(process)
    assert (status, "Traceback" in error) == (130, False)
    assert not os.path.exists(f"/proc/{pid}")


def test_many_starts_at_once_make_one_daemon_and_true_answers(stopping: Bench) -> None:
    verdicts = [ended(process) for process in [starting(stopping, "ready") for _ in range(8)]]
    pid = json.loads((stopping.run_dir / "fee.lock").read_text())["pid"]
    assert [status for status, _, _ in verdicts] == [0] * 8
    assert all(f"(pid {pid})" in out for _, out, _ in verdicts)
    assert sum(out == f"fee is ready (pid {pid})\n" for _, out, _ in verdicts) == 1


def test_what_is_wrong_is_told_before_anything_is_started(bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(launching.subprocess, "Popen", lambda *a, **k: started.append(a))
    for name, value in bench.environment().items():
        monkeypatch.setenv(name, value)
    bench.toml("[daemon]\nusr = 1")
    for verb in ("start", "foreground"):
        assert main([verb, str(bench.folder / "fee.py")]) == 2
        assert "holdfast.toml:2: unknown key 'usr' in [daemon]; did you mean 'user'?" in capsys.readouterr().err
    assert started == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root must say whom it runs as")
@pytest.mark.parametrize(
    ("user", "says"),
    [("", 'write user = "www-data" under [daemon]'), ("nobdy", "there is no user 'nobdy' on this machine; did you mean 'nobody'?")],
)
def test_root_must_name_a_user(bench: Bench, user: str, says: str) -> None:
    bench.environ = {"HOLDFAST_USER": user}
    done = bench.holdfast("start", "fee.py")
    assert done.returncode == 2
    assert says in done.stderr


def test_foreground_is_the_same_process(bench: Bench) -> None:
    process = starting(bench, "ready", "foreground")
    assert ended(process) == (0, f"{process.pid} True\n", "")
