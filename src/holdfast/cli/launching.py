"""Starting a supervisor: detached with a report of how it went, or in place of this process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, Literal, NoReturn

from holdfast.cli import output
from holdfast.cli.command import Call
from holdfast.cli.preflight import Ground
from holdfast.cli.verdict import Verdict
from holdfast.errors import AppError
from holdfast.linux.channel import to_memfd
from holdfast.linux.privileges import as_user
from holdfast.supervisor.offspring import ENTRY, STANDARD_LIBRARY_ONLY

#: Seconds beyond its own limits after which a supervisor that says nothing is taken for wedged.
GRACE = 15.0
_LOG_LINES = 20
_LOG_BYTES = 16384


def detached(call: Call, ground: Ground, *, guarded: bool = False) -> Verdict:
    """Start a supervisor in a session of its own, or a guard that does, and wait for its verdict. AppError when it dies without one."""
    limit = time.monotonic() + ground.options.start_timeout + ground.options.stop_timeout + GRACE
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    boot = _boot(call, foreground=False, guarding=_guarding(ground))
    try:
        with _interrupts_held() as interrupted:
            supervisor = subprocess.Popen(
                _command("guard" if guarded else "supervisor", "--boot", str(boot), "--report", str(write_end)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(boot, write_end),
                start_new_session=True,
                env=dict(call.environ),
            )
    finally:
        os.close(boot)
        os.close(write_end)
    try:
        if interrupted:
            raise KeyboardInterrupt
        return _follow_report(supervisor, read_end, limit, ground)
    except BaseException:
        _end(supervisor, ground.options.stop_timeout)
        raise
    finally:
        os.close(read_end)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Ctrl-C in the moment of starting must not lose sight of what was started; what came is in the list."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def in_place(call: Call, ground: Ground, *, kind: Literal["supervisor", "guard"] = "supervisor") -> NoReturn:
    """Become the supervisor, or its guard, with the same PID and the caller's streams."""
    boot = _boot(call, foreground=True, guarding=_guarding(ground))
    os.set_inheritable(boot, True)
    sys.stdout.flush()
    sys.stderr.flush()
    command = _command(kind, "--boot", str(boot))
    os.execve(command[0], command, dict(call.environ))


def log_tail(ground: Ground) -> str:
    """The last lines of today's log, read as the service user; empty when there are none."""
    path = ground.options.log.replace("{date}", time.strftime("%Y-%m-%d"))
    with contextlib.suppress(OSError), as_user(ground.identity), open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-_LOG_LINES:])
    return ""


def _command(kind: str, *more: str) -> list[str]:
    return [sys.executable, *STANDARD_LIBRARY_ONLY, ENTRY, kind, *more]


def _guarding(ground: Ground) -> dict[str, Any]:
    """What a guard must know, since it reads no file: whose daemon it is, and where to write that it was needed."""
    names = ("name", "app", "run_dir", "log", "log_format", "umask", "guard_patience")
    identity = dataclasses.asdict(ground.identity) if ground.identity is not None else None
    return {**{name: getattr(ground.options, name) for name in names}, "identity": identity}


def _boot(call: Call, *, foreground: bool, guarding: dict[str, Any]) -> int:
    document = {
        "target": call.target,
        "flags": dict(call.flags),
        "cwd": call.cwd,
        "foreground": foreground,
        "environ": dict(call.environ),
        "guarding": guarding,
    }
    return to_memfd("supervisor-boot", json.dumps(document).encode())


def _follow_report(supervisor: subprocess.Popen[bytes], fd: int, limit: float, ground: Ground) -> Verdict:
    for line in _lines(fd, limit):
        if "busy" in line:
            supervisor.wait()
            return Verdict(busy=int(line["busy"] or 0))
        if "exit" in line:
            if line["exit"]:
                supervisor.wait()
            else:
                supervisor.returncode = 0  # it lives on without us
            return Verdict.of(line)
        output.progress(str(line.get("progress", "")))
    if time.monotonic() >= limit:
        raise AppError(f"the supervisor (PID {supervisor.pid}) said nothing in time", remedy="see its log")
    status = supervisor.wait()
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    raise AppError(f"the supervisor died ({how}) before it was ready", trace=log_tail(ground), remedy=f"see {ground.options.log}")


def _lines(fd: int, limit: float) -> Iterator[dict[str, Any]]:
    """Whole lines of JSON until the end of the stream or the limit."""
    buffer = b""
    while (left := limit - time.monotonic()) > 0 and select.select([fd], [], [], left)[0]:
        data = os.read(fd, 1 << 16)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        yield from (json.loads(line) for line in lines)


def _end(supervisor: subprocess.Popen[bytes], stop_timeout: float) -> None:
    """End a supervisor whose start was given up: it stops what it has started."""
    if supervisor.poll() is not None:
        return
    supervisor.terminate()
    try:
        supervisor.wait(stop_timeout + GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        supervisor.kill()
        supervisor.wait()
