"""An idle daemon sleeps (G10). `benchmarks/idle.py` has the figures beside peers."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from crowd import ask

from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]
SECONDS = 4.0
MOST = 5.0  # wake-ups a second of all processes together


def _switches(pid: int) -> int:
    """How often its threads have gone to sleep by themselves."""
    found = 0
    for task in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):  # it has just ended
            found += int(task.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


def _idle(make: Make, heartbeat: str) -> DaemonProcess:
    daemon = make(f'[jobs.Add]\nprocesses = 2\nheartbeat = "{heartbeat}"\n')
    daemon.start()
    assert ask(daemon.port, "a") == b"TRUE"  # type: ignore[attr-defined]
    return daemon


def _woken(daemon: DaemonProcess, before: dict[int, int]) -> dict[str, int]:
    return {f"{name} {pid}": _switches(pid) - before.get(pid, 0) for pid, name in daemon.processes().items()}


def test_nobody_wakes_up_while_there_is_nothing_to_do(make: Make) -> None:
    daemon = _idle(make, "10s")
    before = {pid: _switches(pid) for pid in daemon.processes()}
    threading.Event().wait(SECONDS)
    woken = _woken(daemon, before)
    assert sum(woken.values()) <= MOST * SECONDS, woken


def test_with_a_heartbeat_every_100_ms_it_is_not_quiet(make: Make) -> None:
    """That the test above can tell. On a machine that stands still nobody wakes up, so this one has the time that it takes."""
    daemon = _idle(make, "100ms")
    before, since = {pid: _switches(pid) for pid in daemon.processes()}, time.monotonic()
    threading.Event().wait(SECONDS / 2)
    eventually(lambda: sum(_woken(daemon, before).values()) > MOST * (time.monotonic() - since), "more wake-ups than an idle one has")
