"""What the benchmarks beside the peers share: one environment for all of them, the app in each one's form, and a look into /proc.

`in_one_environment()` installs Holdfast and the peers into an environment of their own, so that all run with the same interpreter and
the same versions, and goes on there. `--venv DIR` keeps it for the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("supervisor", "circus", "gunicorn", "uvicorn", "pika", "numpy", "setuptools<81")
_INSIDE = "HOLDFAST_BENCHMARK_ENVIRONMENT"

#: Imported by every contestant's worker. `announce` says when it is so far, in monotonic seconds, which all processes share.
LOAD = '''
import os, sys, time
import numpy, pika, sqlalchemy, zmq

def announce():
    folder, pid = os.environ["READY"], os.getpid()
    with open(f"{folder}/.{pid}", "w") as file:
        file.write(repr(time.monotonic()))
    os.rename(f"{folder}/.{pid}", f"{folder}/{pid}")

def work():
    """Use what was imported, then collect garbage: what a worker looks like after its first hour."""
    import gc
    engine = sqlalchemy.create_engine("sqlite://")
    table = sqlalchemy.Table("t", sqlalchemy.MetaData(), *(sqlalchemy.Column(name, sqlalchemy.Text) for name in "ns"))
    with engine.begin() as connection:
        table.create(connection)
        for n in range(200):
            connection.execute(table.insert().values(n=str(n), s=str(n)))
            connection.execute(sqlalchemy.select(table).where(table.c.n == str(n))).all()
    for n in range(200):
        pika.BasicProperties(delivery_mode=2, headers={"n": n}).encode()
    numpy.ones((60, 60)) @ numpy.ones((60, 60))
    context = zmq.Context()
    context.socket(zmq.PUSH).close()
    context.term()
    gc.collect()

def begin():
    if os.environ.get("WORKED"):
        work()
    announce()
'''
WORKER = "import signal\nfrom load import begin\nbegin()\nwhile True:\n    signal.pause()\n"
WSGI = "import load\ndef app(environ, start):\n    start('200 OK', [('Content-Length', '2')])\n    return [b'ok']\n"
ASGI = """import load
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                load.begin()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
"""
FORKS = """import gc, os, sys
from load import begin
gc.collect()
gc.freeze()
def start():
    if os.fork() == 0:
        begin()
        import signal
        while True:
            signal.pause()
for _ in range(int(sys.argv[1])):
    start()
while True:
    os.wait()
    start()
"""


def in_one_environment(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; then go on inside the environment, which is made first where it is not there."""
    parser.add_argument("--venv", type=Path, help="where the environment with the peers is, or is to be made and kept")
    given = parser.parse_args()
    if os.environ.get(_INSIDE):
        return given
    if given.venv is not None:
        sys.exit(_inside(given.venv.resolve()))
    with tempfile.TemporaryDirectory(prefix="holdfast-peers-") as folder:
        sys.exit(_inside(Path(folder)))


def _inside(venv: Path) -> int:
    python = venv / "bin" / "python"
    complete = venv / "complete"
    if not complete.exists() or complete.read_text() != str(ROOT):
        print(f"installing {', '.join(PACKAGES)} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES, "-e", str(ROOT)], check=True)
        complete.write_text(str(ROOT))  # whose code it runs
    return subprocess.run([python, *sys.argv], env={**os.environ, _INSIDE: "1"}, check=False).returncode


@contextlib.contextmanager
def scene() -> Iterator[Path]:
    """A folder with the app in every form and an empty `ready`."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as name:
        folder = Path(name)
        for file, text in {"load": LOAD, "worker": WORKER, "wsgi": WSGI, "asgi": ASGI, "forks": FORKS}.items():
            (folder / f"{file}.py").write_text(text)
        (folder / "gconf.py").write_text("def post_worker_init(worker):\n    import load\n    load.begin()\n")
        (folder / "ready").mkdir()
        yield folder


def environ(folder: Path, worked: bool = False) -> dict[str, str]:
    """What a contestant runs with."""
    bare = {key: value for key, value in os.environ.items() if key not in (_INSIDE, "PYTHONPATH")}
    mine = {"READY": str(folder / "ready"), "PYTHONPATH": str(folder), "OPENBLAS_NUM_THREADS": "1", **({"WORKED": "1"} if worked else {})}
    return {**bare, **mine}


def binary(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


def supervisord(folder: Path, workers: int) -> list[str]:
    """supervisord with `startsecs = 0`, which restarts soonest."""
    (folder / "supervisord.conf").write_text(
        f"[supervisord]\nlogfile={folder}/log\npidfile={folder}/pid\n[program:w]\ncommand={sys.executable} {folder}/worker.py\n"
        f"process_name=%(process_num)02d\nnumprocs={workers}\nautorestart=true\nstartsecs=0\nstartretries=1000\n"
    )
    return [binary("supervisord"), "-n", "-c", str(folder / "supervisord.conf")]


def circus(folder: Path, workers: int, check_delay: float = 5.0) -> list[str]:
    """circusd; it looks for dead workers every `check_delay` seconds."""
    (folder / "circus.ini").write_text(
        f"[circus]\ncheck_delay = {check_delay}\nendpoint = ipc://{folder}/c1\npubsub_endpoint = ipc://{folder}/c2\n"
        f"[watcher:w]\ncmd = {sys.executable} {folder}/worker.py\nnumprocesses = {workers}\ncopy_env = True\n"
    )
    return [binary("circusd"), str(folder / "circus.ini")]


def gunicorn(folder: Path, workers: int, *more: str) -> list[str]:
    """gunicorn with sync workers on a UNIX socket."""
    place = f"unix:{folder}/g.sock"
    return [
        binary("gunicorn"),
        "-c",
        str(folder / "gconf.py"),
        "-b",
        place,
        "-w",
        str(workers),
        "--log-level",
        "warning",
        *more,
        "wsgi:app",
    ]


def uvicorn(folder: Path, workers: int) -> list[str]:
    """uvicorn with worker processes on a UNIX socket."""
    return [binary("uvicorn"), "--uds", f"{folder}/u.sock", "--workers", str(workers), "--log-level", "warning", "asgi:app"]


def forks(folder: Path, workers: int) -> list[str]:
    """The floor: a warm process that forks, and forks again."""
    return [sys.executable, str(folder / "forks.py"), str(workers)]


Command = Callable[[Path, int], list[str]]
PEERS: Mapping[str, Command] = {
    "supervisord": supervisord,
    "circus (check_delay 5 s)": circus,
    "circus (check_delay 0.5 s)": lambda folder, workers: circus(folder, workers, 0.5),
    "gunicorn": gunicorn,
    "gunicorn --preload": lambda folder, workers: gunicorn(folder, workers, "--preload"),
    "uvicorn": uvicorn,
    "bare fork, gc.freeze": forks,
}


@contextlib.contextmanager
def running(command: list[str], folder: Path, *, worked: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A peer, until the end of the block; then it and all its descendants are ended."""
    with open(folder / "output", "ab") as output:
        peer = subprocess.Popen(
            command, cwd=folder, env=environ(folder, worked), stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield peer
    finally:
        family = descendants(peer.pid)
        peer.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            peer.wait(10)
        peer.kill()
        peer.wait()
        for pid, began in family.items():
            if _start_time(pid) == began:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def ready(folder: Path, count: int, patience: float = 90.0) -> dict[int, float]:
    """PID -> when it was so far, once so many have said so."""
    limit = time.monotonic() + patience
    while len(names := [name for name in os.listdir(folder / "ready") if name.isdigit()]) < count:
        if time.monotonic() > limit:
            raise TimeoutError(f"{len(names)} of {count} are ready")
        time.sleep(0.002)
    return {int(name): float((folder / "ready" / name).read_text()) for name in names}


def forget(folder: Path) -> None:
    """Nobody has said anything yet."""
    for name in os.listdir(folder / "ready"):
        (folder / "ready" / name).unlink()


def descendants(pid: int) -> dict[int, str]:
    """PID -> start time of all that came of this process and still descend from it, without itself."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found[child] = _start_time(child)
                found |= descendants(child)
    return found


def _start_time(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def pss_mib(pids: list[int]) -> float:
    """Memory of these processes, each shared page counted by its share."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def switches(pid: int) -> int:
    """How often the process's threads have gone to sleep by themselves, so far: each is a wake-up later."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with contextlib.suppress(OSError):
            total += int(status.read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return total
