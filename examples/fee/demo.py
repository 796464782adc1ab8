"""The fee daemon under load, and the loss of a worker in the middle of it: every answered ticket must be in the database, once.

Run by ./scripts/demo. Exits 0 only if nothing was lost, doubled or left without an answer.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clients

from holdfast.testing import free_port

MESSAGES = 20_000
REQ_CLIENTS = 8
REQ_SHARE = 500  # messages of each REQ client; the DEALER sends the rest
HERE = Path(__file__).resolve().parent
PYTHON = Path(sys.executable)


def say(text: str = "") -> None:
    print(text, flush=True)


class Daemon:
    """The fee daemon in a folder of its own, worked by the real commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.user = _lay_out(self)

    def command(self, verb: str, *more: str) -> subprocess.CompletedProcess[str]:
        words = [str(PYTHON.with_name("holdfast")), verb, str(self.folder / "holdfast.toml"), *more]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    def told(self, verb: str) -> bool:
        """Run a command where the reader can see it."""
        say(f"\n$ holdfast {verb} holdfast.toml")
        done = self.command(verb)
        say((done.stdout + done.stderr).rstrip())
        return done.returncode == 0

    def workers(self) -> list[dict[str, Any]]:
        """The workers as `status` shows them, asked for directly: a command takes longer than a worker's replacement."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.data / "fee.sock"))
            control.sendall(b'{"verb":"status"}\n')
            last: dict[str, Any] = [json.loads(line) for line in control.makefile("rb")][-1]
        return [worker for job in last["result"]["jobs"] for worker in job["workers"]]

    def log_tail(self) -> str:
        log = self.data / "fee.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-30:]) if log.exists() else ""


def _lay_out(daemon: Daemon) -> str:
    """Write the daemon's files, which it cannot change, and the folder that is its own; give back the user to run as."""
    daemon.folder.chmod(0o755)
    daemon.data.mkdir(mode=0o700)
    shutil.copy(HERE / "fee.py", daemon.folder)
    user = ""
    if os.geteuid() == 0:
        user = next((name for name in ("nobody", "www-data") if _can_run(name, daemon.folder)), "root")
        shutil.chown(daemon.data, user)
    lines = ["[daemon]", 'name = "fee"', 'app = "fee.py"', 'run_dir = "data"', 'state_dir = "data"']
    lines += [f'user = "{user}"'] if user else []
    lines += ["[jobs.Fee]", f'source = "zmq+rep://{daemon.endpoint.removeprefix("tcp://")}"', 'store = "sqlite:///data/fee.db"']
    (daemon.folder / "holdfast.toml").write_text("\n".join(lines) + "\n")
    return user


def _can_run(user: str, folder: Path) -> bool:
    """Whether this user can read the interpreter, the package and the app."""
    program = "import holdfast.app, msgspec, sqlalchemy, zmq, sys; open(sys.argv[1])"
    with suppress(OSError, LookupError, subprocess.SubprocessError):
        words = [str(PYTHON), "-c", program, str(folder / "fee.py")]
        return subprocess.run(words, user=user, extra_groups=[], cwd="/", capture_output=True, check=False).returncode == 0
    return False


@dataclass
class Run:
    """What the load brought to light."""

    outcomes: list[clients.Outcome]
    seconds: float
    replaced_ms: float | None


def load(daemon: Daemon) -> Run:
    """Send everything, kill a worker when half is answered, wait for the rest."""
    counters = multiprocessing.get_context("fork").RawArray("Q", REQ_CLIENTS + 1)
    began = time.monotonic()
    replaced_ms = None
    with _pool(counters) as pool:
        pending: set[Future[clients.Outcome]] = set(_submit(pool, daemon.endpoint))
        everybody = list(pending)
        with _progress(counters) as show:
            killed = False
            while pending:
                _, pending = wait(pending, timeout=0.05, return_when=FIRST_COMPLETED)
                show()
                if not killed and sum(counters) >= MESSAGES // 2:
                    killed = True
                    replaced_ms = kill_worker(daemon)
    return Run([future.result() for future in everybody], time.monotonic() - began, replaced_ms)


def _pool(counters: Any) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(REQ_CLIENTS + 1, mp_context=context, initializer=clients.share, initargs=(counters,))


def _submit(pool: ProcessPoolExecutor, endpoint: str) -> Iterator[Future[clients.Outcome]]:
    for number in range(REQ_CLIENTS):
        tickets = range(1 + number * REQ_SHARE, 1 + (number + 1) * REQ_SHARE)
        yield pool.submit(clients.lock_step, endpoint, tickets, number)
    yield pool.submit(clients.pipelining, endpoint, range(1 + REQ_CLIENTS * REQ_SHARE, 1 + MESSAGES), REQ_CLIENTS)


@contextmanager
def _progress(counters: Sequence[int]) -> Iterator[Any]:
    """Show how far it is, and how many were answered in the last second: a line that changes on a terminal, else one a second."""
    live = sys.stdout.isatty()
    shown = time.monotonic()
    second = deque([(shown, 0)], maxlen=21)  # looks, one each 50 ms

    def show() -> None:
        nonlocal shown
        now, done = time.monotonic(), sum(counters)
        began, before = second[0]
        if now - second[-1][0] >= 0.05:
            second.append((now, done))
        if now - shown >= (0.1 if live else 1.0):
            shown = now
            line = f"{done:>9} of {MESSAGES} answered, {(done - before) / (now - began + 1e-9):>7.0f} a second"
            print(f"\r{line}" if live else line, end="" if live else "\n", flush=True)

    yield show
    say(f"{chr(13) if live else ''}{sum(counters):>9} of {MESSAGES} answered{' ' * 18}")


def kill_worker(daemon: Daemon) -> float | None:
    """SIGKILL a worker; the milliseconds until another one is active in its place, None if that never came."""
    before = daemon.workers()
    victim = before[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    say(f"{chr(10) if sys.stdout.isatty() else ''}          worker {victim} killed with SIGKILL")
    known = {worker["pid"] for worker in before}
    while time.monotonic() < began + 30:
        for worker in daemon.workers():
            if worker["pid"] not in known and str(worker["state"]).lower() == "active" and worker.get("role", "worker") == "worker":
                elapsed = (time.monotonic() - began) * 1000
                say(f"          worker {worker['pid']} is active in its place")
                return elapsed
        time.sleep(0.002)
    return None


@dataclass
class Verdict:
    """The database against what the clients were told."""

    rows: int
    finished: int
    lost: int
    doubled: int


def examine(database: Path, confirmed: set[int]) -> Verdict:
    """Lost: answered TRUE and not in the database with its final status. Doubled: in the database more than once."""
    with sqlite3.connect(database) as db:
        found = dict(db.execute("SELECT ticket, count(*) FROM fee GROUP BY ticket"))
        done = {ticket for (ticket,) in db.execute("SELECT ticket FROM fee WHERE status = 'Y'")}
        (finished,) = db.execute("SELECT count(*) FROM fee WHERE status = 'Y'").fetchone()
    db.close()
    return Verdict(sum(found.values()), finished, len(confirmed - done), sum(count > 1 for count in found.values()))


def report(run: Run, verdict: Verdict) -> bool:
    """Print the table; True if all went well."""
    latencies = sorted(latency for outcome in run.outcomes for latency in outcome.latencies)
    confirmed = sum(len(outcome.confirmed) for outcome in run.outcomes)
    refused = sum(len(outcome.refused) for outcome in run.outcomes)
    unanswered = sum(len(outcome.unanswered) for outcome in run.outcomes)
    sent = confirmed + refused + unanswered
    table: list[tuple[str, object]] = [
        ("sent", sent),
        ("answered TRUE", confirmed),
        ("answered otherwise", refused),
        ("not answered", unanswered),
        ("sent again by clients", sum(outcome.resent for outcome in run.outcomes)),
        ("rows", verdict.rows),
        ("rows in Y", verdict.finished),
        ("lost", verdict.lost),
        ("doubled", verdict.doubled),
        ("messages per second", f"{confirmed / run.seconds:.0f}"),
        ("answer time, p50", _milliseconds(_share(latencies, 0.50))),
        ("answer time, p99", _milliseconds(_share(latencies, 0.99))),
        ("killed worker replaced in", _milliseconds(run.replaced_ms)),
    ]
    say()
    for name, value in table:
        say(f"  {name:<27}{value:>12}")
    return sent == confirmed == MESSAGES and not (verdict.lost or verdict.doubled) and run.replaced_ms is not None


def _share(latencies: Sequence[float], share: float) -> float | None:
    return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000 if latencies else None


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def show(daemon: Daemon) -> bool:
    """The whole demonstration."""
    say(f"The fee daemon of examples/fee: ZeroMQ in at {daemon.endpoint}, SQLite out, in {daemon.folder}")
    say("It answers TRUE after the commit. Whoever was answered must be in the database, once.")
    if daemon.user == "root":
        say("Runs as root: neither nobody nor www-data can read this checkout and its interpreter.")
    elif daemon.user:
        say(f"Started by root, runs as {daemon.user}.")
    if not daemon.told("start"):
        return False
    try:
        say(f"\n{REQ_CLIENTS} REQ clients and one DEALER with up to {clients.IN_FLIGHT} in flight send {MESSAGES} messages:\n")
        run = load(daemon)
        daemon.told("status")
    finally:
        stopped = daemon.told("stop")
    confirmed = {ticket for outcome in run.outcomes for ticket in outcome.confirmed}
    return report(run, examine(daemon.data / "fee.db", confirmed)) and stopped


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    daemon = Daemon(folder)
    try:
        good = show(daemon)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        daemon.command("stop", "--now")
        if isinstance(error, BrokenPipeError):  # whoever read this has gone
            shutil.rmtree(folder)
            os._exit(1)
        good = False
    if not good:
        say(f"\nNOT as it should be. Everything is kept in {folder}; the log ends with:\n{daemon.log_tail()}")
        return 1
    shutil.rmtree(folder)
    say("\nNothing lost, nothing doubled.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
