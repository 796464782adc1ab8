"""`restart`: check first; then the same process begins afresh."""

from __future__ import annotations

from cli_kit import Bench


def test_what_is_wrong_is_found_before_anything_is_stopped(bench: Bench) -> None:
    daemon = bench.daemon()
    bench.toml("[jobs.Fee]\nproceses = 2")
    done = bench.holdfast("restart", "fee.py")
    assert done.returncode == 2
    assert "unknown key 'proceses'" in done.stderr
    assert (bench.asked(), daemon.poll()) == ([], None)


def test_the_daemon_drains_and_comes_back(bench: Bench) -> None:
    bench.daemon({"restart": [{"progress": "draining"}], "wait": [{"exit": 0, "result": {"pid": 4711}}]})
    done = bench.holdfast("restart", "fee.py")
    assert (done.returncode, done.stdout) == (0, "fee has restarted (pid 4711)\n")
    assert bench.asked() == [{"verb": "restart"}, {"verb": "wait"}]


def test_a_refusal_is_told(bench: Bench) -> None:
    bench.daemon({"restart": [{"exit": 1, "error": "stopping"}]})
    done = bench.holdfast("restart", "fee.py")
    assert (done.returncode, done.stderr) == (1, "holdfast: stopping\n")


def test_a_daemon_that_fails_to_come_back_is_told(bench: Bench) -> None:
    bench.daemon({"restart": [], "wait": [{"exit": 1, "error": "setup failed", "trace": "Traceback of the app"}]})
    done = bench.holdfast("restart", "fee.py")
    assert (done.returncode, done.stderr) == (1, "Traceback of the app\nholdfast: setup failed\n")
