"""The stage: a daemon, its crowd, the clock, and the verdict at the end."""

import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from chaos.slots import Said, went_back
from holdfast.testing.builds import Builds
from holdfast.testing.crowd import Crowd, Row
from holdfast.testing.daemon import DaemonProcess, eventually, free_port

APP = """
import os, time
from holdfast import Daemon, Job

VERSION = {version}

class Add(Job):
    source = "zmq+rep://127.0.0.1:{port}"
    store = "sqlite:///{folder}/add.db"
    schema = "CREATE TABLE IF NOT EXISTS account (name TEXT, volume INTEGER)"

    def handle(self, message, db):
        db.execute("INSERT INTO account VALUES (:n, 1)", {{"n": message.text}})
        return "version %d by %s at %d" % (self.version(), os.environ["HOLDFAST_WORKER"], time.monotonic_ns())

    def version(self):
        return VERSION
{more}
if __name__ == "__main__":
    Daemon(Add).main()
"""
IDENTITY = "\n    def identity(self, message):\n        return message.text\n"
AGAIN_AFTER = 1.0  # seconds after which clients ask again, where messages have an identity


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line. `every` None: the scenario's own; `rate` None: as fast as answered."""

    name: str
    seconds: float
    every: float | None = None
    rate: float | None = None


class Stage:
    """What a scenario has at hand. `next()` waits for the time of the next disturbance and says whether there is one."""

    def __init__(self, daemon: DaemonProcess, crowd: Crowd, port: int, plan: Plan, every: float, more: str) -> None:
        self.daemon, self.crowd, self.port, self.plan = daemon, crowd, port, plan
        self.builds: Builds | None = None
        self.done = 0
        self.notes: list[str] = []
        self.pid = daemon.pid
        self._marks: list[tuple[float, int]] = [(0.0, 1)]
        self._newest = 1
        self._every, self._more = plan.every or every, more
        self._clock = threading.Event()
        self._end = time.monotonic() + plan.seconds
        self._said = 0.0

    def next(self) -> bool:
        """Wait until the next disturbance is due; False when the time is over."""
        now = time.monotonic()
        self._clock.wait(max(0.0, min(self._every, self._end - now)))
        if now + self._every > self._end:
            return False
        self.done += 1
        self._progress()
        return True

    def kill(self, pid: int) -> None:
        """SIGKILL, unless it has just gone by itself."""
        with suppress(AssertionError, ProcessLookupError):
            self.daemon.kill(pid)

    def until(self, look: Callable[[], object], what: str) -> None:
        """Wait for something."""
        eventually(look, what)

    def serves(self) -> bool:
        """Whether the daemon says that it runs."""
        try:
            return bool(self.daemon.status()["state"] == "running")
        except OSError:
            return False

    def write(self, version: int, *, broken: str = "") -> None:
        """New code, as a deployment would put it there: whole. `broken` is put at its end."""
        fresh = self.daemon.file.with_suffix(".new")
        fresh.write_text(APP.format(version=version, port=self.port, folder=self.daemon.folder, more=self._more) + broken)
        fresh.rename(self.daemon.file)

    def reload(self, version: int, **more: bool) -> None:
        """Reload, which must succeed. Whatever is sent after that has this version's answer, or a newer one's."""
        self._newest = version
        answer = self.daemon.ask("reload", **more)
        if answer["exit"]:
            self.complain(f"reload {self.done}: {answer.get('error')}")
        else:
            self._marks.append((time.monotonic(), version))

    def upgrade(self, version: int, build: str) -> None:
        """Have this build of Holdfast take over, and this version of the application."""
        assert self.builds is not None
        self._newest = version
        self.builds.use(build)
        answer = self.daemon.ask("upgrade")
        if answer["exit"]:
            self.complain(f"upgrade {self.done}: {answer.get('error')}")
        elif self.daemon.status()["version"] != build:
            self.complain(f"upgrade {self.done}: version {self.daemon.status()['version']} instead of {build}")
        else:
            self._marks.append((time.monotonic(), version))

    def refused(self, why: str) -> None:
        """Reload, which must be refused and replace nobody."""
        before = {worker["pid"] for worker in self.daemon.workers()}
        answer = self.daemon.ask("reload")
        if answer["exit"] != 1:
            self.complain(f"reload {self.done}, {why}: exit {answer['exit']} instead of 1")
        if before - {worker["pid"] for worker in self.daemon.workers()}:
            self.complain(f"reload {self.done}, {why}: it was refused, and yet a worker was replaced")

    def check_versions(self) -> None:
        """Every answer's version is one that was loaded, and none that was over when its message was sent; on no slot they went back."""
        over = ahead = 0
        told: list[Said] = []
        for answer in self.crowd.story:
            words = answer.text.decode().split()
            version = int(words[1]) if words[0] == "version" else 0
            if version:
                told.append((words[3], int(words[5]), version))
            least = max(loaded for at, loaded in self._marks if at <= answer.sent_last)
            over += version < least
            ahead += version > self._newest
        if over or ahead:
            self.complain(f"{over} answers of versions that were over, {ahead} of versions that never were")
        for back in went_back(told):
            self.complain(back)

    def complain(self, text: str) -> None:
        """A promise was broken."""
        self.notes.append(text)

    def _progress(self) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._said > 0.5:
            self._said = time.monotonic()
            left = max(0.0, self._end - self._said)
            print(f"\r{self.plan.name}: {self.done} times, {self.crowd.answered} answers, {left:.0f} s left ", end="", file=sys.stderr)


def play(scenario: ModuleType, plan: Plan) -> Row:
    """Play one scenario from start to stop; the folder is kept when a promise was broken."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{plan.name}-"))
    more, port = getattr(scenario, "MORE", IDENTITY), free_port()
    app = APP.format(version=1, port=port, folder=folder, more=more)
    daemon = DaemonProcess(folder, app, toml=getattr(scenario, "TOML", ""))
    builds = _builds(folder / "builds", getattr(scenario, "BUILDS", ()))
    if builds is not None:
        daemon.python = builds.python
    for name, text in getattr(scenario, "FILES", {}).items():
        (folder / name).write_text(text)
    told = daemon.run("start", *(["--guard"] if getattr(scenario, "GUARDED", False) else []))
    assert told.returncode == 0, told.stderr + daemon.log()
    crowd = Crowd(port, reqs=20, rate=plan.rate, again_after=AGAIN_AFTER if more else None)
    try:
        with crowd:
            eventually(lambda: crowd.answered > 20, "the load has begun")
            stage = Stage(daemon, crowd, port, plan, scenario.EVERY, more)
            stage.builds = builds
            scenario.disturb(stage)
            if not getattr(scenario, "GUARDED", False) and daemon.pid != stage.pid:
                stage.complain(f"the PID was {stage.pid} and is {daemon.pid}")
    finally:
        stopped = daemon.run("stop")
    return _row(scenario, stage, stopped.returncode)


def _builds(folder: Path, versions: Sequence[str]) -> Builds | None:
    if not versions:
        return None
    builds = Builds(folder)
    for version in versions:
        builds.make(version)
    builds.use(versions[0])
    return builds


def _row(scenario: ModuleType, stage: Stage, stopped: int) -> Row:
    crowd, daemon = stage.crowd, stage.daemon
    stage.check_versions()
    notes = [*stage.notes, *([f"stop: exit status {stopped}"] if stopped else [])]
    left = daemon.processes()
    if left:
        notes.append(f"left behind: {left}")
    verdict = crowd.compare(effects(daemon.folder / "add.db"))
    errors = len(crowd.unanswered) + sum(len(one) != 1 or b"FALSE" in one for one in crowd.answers.values())
    row = Row(stage.plan.name, crowd, verdict, errors, notes)
    if errors:
        notes.append(f"{len(crowd.unanswered)} messages without an answer, {errors - len(crowd.unanswered)} with a wrong one or with two")
    if row.fine:
        _remove(daemon.folder)
    else:
        notes.append(f"kept for looking at: {daemon.folder}")
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return row


def effects(database: Path) -> Counter[str]:
    """How often each name was counted."""
    connection = sqlite3.connect(database)
    try:
        return Counter(dict(connection.execute("SELECT name, sum(volume) FROM account GROUP BY name").fetchall()))
    finally:
        connection.close()


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
