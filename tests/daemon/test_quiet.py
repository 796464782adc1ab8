"""An idle daemon sleeps (G10). `benchmarks/idle.py` has the figures beside peers."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from crowd import ask

from holdfast.testing.daemon import DaemonProcess

Make = Callable[..., DaemonProcess]
SECONDS = 4.0
MOST = 5.0  # wake-ups a second of all processes together


def _switches(pid: int) -> int:
    """How often its threads have gone to sleep by themselves."""
    tasks = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(int(task.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for task in tasks)


@pytest.mark.parametrize(("heartbeat", "quiet"), [("10s", True), ("100ms", False)])
def test_nobody_wakes_up_while_there_is_nothing_to_do(make: Make, heartbeat: str, quiet: bool) -> None:
    """With a heartbeat every 100 ms it is not quiet: that the test can tell."""
    daemon = make(f'[jobs.Add]\nprocesses = 2\nheartbeat = "{heartbeat}"\n')
    daemon.start()
    assert ask(daemon.port, "a") == b"TRUE"  # type: ignore[attr-defined]
    before = {pid: _switches(pid) for pid in daemon.processes()}
    threading.Event().wait(SECONDS)
    woken = {name: _switches(pid) - before[pid] for pid, name in daemon.processes().items()}
    assert (sum(woken.values()) <= MOST * SECONDS) is quiet, woken
