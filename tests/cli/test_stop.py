"""`stop`: drains, waits for the very end, ends what is wedged, and never touches anybody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from cli_kit import Bench

from holdfast.linux import process


def test_nothing_to_stop(bench: Bench) -> None:
    done = bench.holdfast("stop", "fee.py")
    assert (done.returncode, done.stdout) == (0, "fee is not running\n")


def test_stop_waits_for_the_end(bench: Bench) -> None:
    daemon = bench.daemon({"stop": [{"progress": "draining"}, {"exit": 0}]})
    done = bench.holdfast("stop", "fee.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fee has stopped\n", "")
    assert daemon.wait(30) == 0
    assert bench.asked() == [{"verb": "stop"}]


def test_stop_passes_on_what_was_asked(bench: Bench) -> None:
    bench.daemon()
    assert bench.holdfast("stop", "fee.py", "--now", "--timeout", "1m").returncode == 0
    assert bench.asked() == [{"verb": "stop", "now": True, "timeout": 60.0}]


def test_a_refusal_is_told(bench: Bench) -> None:
    daemon = bench.daemon({"stop": [{"exit": 1, "error": "not now"}], "deaf": []})
    done = bench.holdfast("stop", "fee.py")
    assert (done.returncode, done.stderr) == (1, "holdfast: not now\n")
    assert daemon.poll() is None


def test_a_supervisor_on_its_way_up_is_ended_by_a_signal(bench: Bench) -> None:
    daemon = bench.daemon({"no socket": []})
    assert bench.holdfast("stop", "fee.py").returncode == 0
    assert daemon.wait(30) == -signal.SIGTERM


def test_a_wedged_supervisor_is_killed_and_what_it_left_too(bench: Bench, monkeypatch) -> None:
    daemon = bench.daemon({"deaf": []})
    orphan = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    bench.running.append(orphan)
    innocent = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    bench.running.append(innocent)
    rows = [(orphan.pid, process.start_time(orphan.pid)), (innocent.pid, 1)]
    listed = [{"pid": pid, "start_time": start, "boot_id": process.boot_id()} for pid, start in rows]
    (bench.run_dir / "fee.children").write_text(json.dumps(listed))
    monkeypatch.setattr("holdfast.cli.stop._GRACE", 0.2)
    for name, value in bench.environment().items():
        monkeypatch.setenv(name, value)
    from holdfast.cli.main import main

    assert main(["stop", str(bench.folder / "fee.py"), "--timeout", "100ms"]) == 0
    assert daemon.wait(30) == -signal.SIGKILL
    assert orphan.wait(30) == -signal.SIGKILL
    assert innocent.poll() is None
    assert {*os.listdir(bench.run_dir)} - {"asked"} == {"fee.lock"}, "whether it has heard the question does not matter"


def test_a_recycled_pid_is_not_signalled(bench: Bench) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    bench.running.append(innocent)
    bench.run_dir.mkdir()
    (bench.run_dir / "fee.pid").write_text(f"{innocent.pid}\n")
    (bench.run_dir / "fee.lock").write_text(json.dumps({"pid": innocent.pid, "app": str(bench.folder / "fee.py")}))
    done = bench.holdfast("stop", "fee.py")
    assert (done.returncode, done.stdout) == (0, "fee is not running\n")
    assert innocent.poll() is None


def test_stop_works_with_a_broken_file_and_without_the_app(bench: Bench) -> None:
    bench.toml("[daemon\nname = ")
    (bench.folder / "fee.py").unlink()
    daemon = bench.daemon()
    assert bench.holdfast("stop", "fee.py").returncode == 0
    assert daemon.wait(30) == 0
