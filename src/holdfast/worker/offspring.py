"""What a forked child does before anything else, so that nothing of the zygote clings to it."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import signal
import sys
from collections.abc import Iterable
from typing import NoReturn

from holdfast.linux.process import STACKS_SIGNAL

# Python needs the first two ignored, and itself starts with them so: a write to a closed pipe is an exception, not a death.
# The last would end a child that is asked for its stacks before it can give them.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, STACKS_SIGNAL)


def become_clean(log_fd: int) -> None:
    """Own session, standard streams of its own, random numbers of its own; signals are the zygote's, which has made them default.

    There is no PR_SET_PDEATHSIG: set before the process in between has gone it would fire at once, set later it would end a
    worker in the middle of a commit when the supervisor dies. The end of the channel tells the same, and lets it finish.
    """
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    os.close(log_fd)
    faulthandler.enable(2)  # ABRT and SEGV show every thread's stack
    _reseed()


def give_stacks(fd: int) -> None:
    """From now on STACKS_SIGNAL writes the stacks of all threads there, also when a thread in C code holds the interpreter's lock.

    Appended, so that the supervisor can empty the file and ask again.
    """
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    faulthandler.register(STACKS_SIGNAL, file=fd, all_threads=True, chain=False)


def default_signals() -> None:
    """Every signal as at the start of a Python process, none blocked; SIGINT is the default too: it ends the process."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        wanted = signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL
        if signal.getsignal(number) is not wanted:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, wanted)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _reseed() -> None:
    """Sisters forked from one zygote would draw identical numbers of numpy's; Python reseeds its own at each fork.

    Generators that the application made itself are its own affair.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def close_all(fds: Iterable[int]) -> None:
    """Close what is there of these."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def leave(status: int) -> NoReturn:
    """End at once, with what was printed: no atexit handler, no finalizer of objects that belong to all sisters."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)
