"""The name that ps and top show."""

from __future__ import annotations

import ctypes

_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


def set_process_name(name: str) -> None:
    """Name the calling thread, which for a process's first thread is the process; the kernel keeps 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)
