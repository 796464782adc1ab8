"""Processor time among sessions, which the kernel shares out before it looks at processes (sched(7), "The autogroup feature")."""

from __future__ import annotations

import time

#: What a process gets that others should not notice: a third of what a busy session beside it gets. A real nice value would do the same
#: where there are no sessions' shares, but could not be lowered again without rights, and what is forked would inherit it; a new session
#: begins with the full share.
MODEST, FULL = 5, 0


def set_share(nice: int, patience: float = 0.0) -> bool:
    """Give this process's session the share of this nice value, 0 to 19, which needs no rights; False where it is not to be had.

    The kernel refuses a second change within a tenth of a second, whoever made the first: `patience` is how long it is tried again.
    """
    until = time.monotonic() + patience
    while True:
        try:
            with open("/proc/self/autogroup", "w") as file:
                file.write(str(nice))
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.02)
        except OSError:  # a kernel without sessions' shares
            return False
        else:
            return True
