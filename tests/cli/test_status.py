"""`status`: LSB's exit statuses whatever is broken, the daemon's own words where it speaks."""

from __future__ import annotations

import json
import os
import time

import pytest
from cli_kit import Bench

from holdfast.cli.status_view import age, lines

FACTS = {
    "name": "fee",
    "state": "running",
    "pid": 4711,
    "generation": 1,
    "uptime_s": 7380.5,
    "version": "0.1.0",
    "jobs": [
        {
            "name": "Fee",
            "state": "paused",
            "reason": "the store is away",
            "since": 1_800_000_000.5,
            "source": "zmq+rep://127.0.0.1:5555",
            "store": "mysql://www:geheim@db/fee",
            "guarantee": "exactly-once",
            "handled": 20000,
            "failed": 1,
            "retried": 2,
            "dead": 3,
            "duplicates": 4,
            "in_flight": 5,
            "rate_1m": 6,
            "latency_ms": {"p50": 1.5, "p99": 12.0},
            "workers": [
                {"pid": 4712, "state": "active", "generation": 1, "threads": 8, "in_flight": 5, "handled": 20000, "rss_bytes": 52428800}
                | {"uptime_s": 61.2, "restarts": 0}
            ],
        }
    ],
    "programs": [{"name": "thumbs", "state": "ready", "pid": 4713}],
}
VIEW = """\
fee  running  pid 4711  up 2h 3m  generation 1  holdfast 0.1.0

Fee  paused  zmq+rep://127.0.0.1:5555 -> mysql://www:***@db/fee  exactly-once
  the store is away, since {since}
  20000 handled, 1 failed, 2 retried, 3 dead letters, 4 duplicates, 5 in flight, 6 a second, p50 1.5 ms, p99 12 ms
  PID   STATE   GEN  THREADS  IN FLIGHT  HANDLED  MEMORY    UP     RESTARTS
  4712  active    1        8          5    20000  50.0 MiB  1m 1s         0

PROGRAM  STATE  PID
thumbs   ready  4713
""".replace("{since}", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_800_000_000)))


def test_the_daemons_own_words(bench: Bench) -> None:
    bench.daemon({"status": [{"exit": 0, "result": FACTS}]})
    done = bench.holdfast("status", "fee.py", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, FACTS)
    done = bench.holdfast("status", "fee.py")
    assert (done.returncode, done.stdout) == (0, VIEW)
    assert bench.asked() == [{"verb": "status"}] * 2


def test_what_is_missing_is_left_out() -> None:
    assert lines({"name": "fee", "state": "stopped"}) == ["fee  stopped"]
    assert lines({"name": "fee", "jobs": [{"name": "Fee", "workers": [{}]}]})[2].startswith("Fee  unknown")


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0s"), (59.9, "59s"), (61, "1m 1s"), (3600, "1h 0m"), (90061, "1d 1h")])
def test_ages(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


def test_not_running(bench: Bench) -> None:
    done = bench.holdfast("status", "fee.py", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (3, {"name": "fee", "state": "stopped", "pid": None, "jobs": [], "programs": []})


def test_dead_with_its_pid_file_left(bench: Bench) -> None:
    daemon = bench.daemon()
    daemon.kill()
    daemon.wait()
    done = bench.holdfast("status", "fee.py", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (1, "dead")


def test_a_pid_file_of_somebody_else_is_not_believed(bench: Bench) -> None:
    bench.run_dir.mkdir()
    (bench.run_dir / "fee.pid").write_text(f"{os.getpid()}\n")
    (bench.run_dir / "fee.lock").write_text(json.dumps({"pid": os.getpid(), "app": str(bench.folder / "fee.py")}))
    assert bench.holdfast("status", "fee.py").returncode == 1


def test_a_supervisor_that_does_not_listen_is_unknown(bench: Bench) -> None:
    daemon = bench.daemon({"no socket": []})
    done = bench.holdfast("status", "fee.py", "--json")
    assert done.returncode == 4
    assert (json.loads(done.stdout)["state"], json.loads(done.stdout)["pid"]) == ("unknown", daemon.pid)


def test_an_error_of_the_daemon_is_unknown(bench: Bench) -> None:
    bench.daemon({"status": [{"exit": 1, "error": "no idea"}]})
    done = bench.holdfast("status", "fee.py")
    assert (done.returncode, done.stdout) == (4, "fee  unknown\n  no idea\n")


@pytest.mark.parametrize("toml", ["[daemon\n", "[daemon]\nuser = 1\nunknown = 2", '[daemon]\nname = "fee"\nlog ='])
def test_works_with_a_broken_file_and_a_broken_app(bench: Bench, toml: str) -> None:
    bench.toml(toml)
    bench.app("def (:")
    bench.daemon({"status": [{"exit": 0, "result": FACTS}]})
    assert bench.holdfast("status", "fee.py").returncode == 0
    (bench.folder / "fee.py").unlink()
    assert bench.holdfast("status", "fee.py").returncode == 0


def test_a_terminal_is_not_moved_by_what_the_daemon_says(bench: Bench) -> None:
    bench.daemon({"status": [{"exit": 0, "result": {"name": "fee", "state": "running", "reason": "\x1b[2Jgone"}}]})
    assert "\x1b" not in bench.holdfast("status", "fee.py").stdout
