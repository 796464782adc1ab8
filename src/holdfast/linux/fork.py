"""Forking a process that is nobody's child here: its parent becomes the nearest subreaper."""

from __future__ import annotations

import contextlib
import os


def fork_away() -> int:
    """Fork twice; the PID of the grandchild to the caller, 0 in the grandchild. OSError when either fork fails.

    When it returns to the caller the process in between has been reaped, so the grandchild has its final parent.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        between = os.fork()
    except OSError:
        os.close(read_end)
        os.close(write_end)
        raise
    if between == 0:
        os.close(read_end)
        return _between(write_end)
    os.close(write_end)
    try:
        # Not read to its end: the grandchild holds the other end too, for a moment.
        report = os.read(read_end, 64).decode()
    finally:
        os.close(read_end)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(between, 0)
    number, _, what = (report or f"{0} the process in between died").partition(" ")
    if what:
        raise OSError(int(number), what)
    return int(number)


def _between(write_end: int) -> int:
    """Fork the one that is wanted, report it, and end; only the one that is wanted returns."""
    try:
        pid = os.fork()
    except OSError as error:
        os.write(write_end, f"{error.errno} {error.strerror}"[:64].encode())
        os._exit(1)
    if pid:
        os.write(write_end, str(pid).encode())
        os._exit(0)
    os.close(write_end)
    return 0
