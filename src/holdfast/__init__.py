"""Holdfast turns a Python class into a daemon that never drops a message it has acknowledged.

The public names load on first use, so that importing one part of the package (the supervisor, say) does not load the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Daemon", "HoldfastError", "Job", "Message", "Reject", "Retry"]

if TYPE_CHECKING:
    from holdfast.app import Daemon
    from holdfast.errors import HoldfastError
    from holdfast.model.job import Job
    from holdfast.model.message import Message, Reject, Retry

_HOMES = {
    "Daemon": "holdfast.app",
    "HoldfastError": "holdfast.errors",
    "Job": "holdfast.model.job",
    "Message": "holdfast.model.message",
    "Reject": "holdfast.model.message",
    "Retry": "holdfast.model.message",
}


def __getattr__(name: str) -> object:
    import importlib

    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
