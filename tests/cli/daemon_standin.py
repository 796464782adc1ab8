"""Stands in for a supervisor: has the lock, writes its PID, listens, and answers each verb as it was told.

    python daemon_standin.py RUN_DIR NAME APP ANSWERS     a daemon that runs
    python daemon_standin.py --boot FD --report FD        one that is being started: does what STANDIN in its boot document says
    python daemon_standin.py --boot FD                    one in the foreground

ANSWERS is JSON: verb -> list of lines to send. A verb with no answers is never answered. "stop" also ends the process, and so
does TERM, unless "deaf" is among the answers. What it was asked is written to RUN_DIR/asked.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from holdfast.control.server import bind


def main() -> None:
    if sys.argv[1] == "--boot":
        if sys.argv[3:]:
            _be_started(int(sys.argv[2]), int(sys.argv[4]))
        print(os.getpid(), _boot(int(sys.argv[2]))["foreground"])
        return
    run_dir, name, app, answers = sys.argv[1:]
    lock = _lock(run_dir, name, app)
    assert lock is not None
    _serve(run_dir, name, json.loads(answers), lambda: print("up", flush=True))


def _lock(run_dir: str, name: str, app: str) -> int | None:
    os.makedirs(run_dir, exist_ok=True)
    fd = os.open(os.path.join(run_dir, f"{name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps({"pid": os.getpid(), "app": app}).encode(), 0)
    with open(os.path.join(run_dir, f"{name}.pid"), "w") as file:
        file.write(f"{os.getpid()}\n")
    return fd


def _serve(run_dir: str, name: str, answers: dict[str, Any], say_up: Callable[[], None] = lambda: None) -> None:
    if "deaf" in answers:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "no socket" in answers:
        say_up()
        signal.pause()
    listener = bind(run_dir, name)
    listener.setblocking(True)
    say_up()
    kept: list[socket.socket] = []
    while True:
        connection, _ = listener.accept()
        request = json.loads(connection.makefile("rb").readline() or b'{"verb": ""}')
        with open(os.path.join(run_dir, "asked"), "a") as file:
            file.write(json.dumps(request) + "\n")
        verb = request["verb"]
        if verb not in answers:
            kept.append(connection)
            continue
        for line in answers[verb]:
            connection.sendall(json.dumps(line).encode() + b"\n")
        connection.close()
        if verb == "stop" and "deaf" not in answers:
            os.unlink(os.path.join(run_dir, f"{name}.pid"))
            os._exit(0)


def _boot(fd: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    return document


def _be_started(boot_fd: int, report_fd: int) -> None:
    boot = _boot(boot_fd)
    flags = boot["flags"]
    run_dir, name = flags["run_dir"], flags["name"]
    os.makedirs(run_dir, exist_ok=True)
    facts = {
        "target": boot["target"],
        "foreground": boot["foreground"],
        "session": os.getsid(0) == os.getpid(),
        "fds": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")},
        "given": [boot_fd, report_fd],
    }
    report = os.fdopen(report_fd, "w", buffering=1)
    way = boot["environ"]["STANDIN"]
    if way == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if _lock(run_dir, name, os.path.join(boot["cwd"], boot["target"])) is None:
        with open(os.path.join(run_dir, f"{name}.lock")) as file:
            report.write(json.dumps({"busy": json.load(file)["pid"]}) + "\n")
        os._exit(0)
    with open(os.path.join(run_dir, "facts"), "w") as file:
        json.dump(facts, file)
    report.write(json.dumps({"progress": "half way"}) + "\n")
    if way == "fails":
        report.write(json.dumps({"exit": 5, "error": "port 1 is in use", "trace": "Traceback of the app"}) + "\n")
        os._exit(5)
    if way == "silent":
        signal.pause()
    report.write(json.dumps({"exit": 0, "pid": os.getpid(), "text": "ready"}) + "\n")
    report.close()
    _serve(run_dir, name, {"wait": [{"exit": 0, "result": {"pid": os.getpid()}}], "stop": [{"exit": 0}]})


if __name__ == "__main__":
    main()
