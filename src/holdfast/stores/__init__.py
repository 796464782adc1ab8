"""Stores: the databases whose transactions hold the effects. Each driver is imported in its own file, when it is asked for."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    from holdfast.stores.base import Store

_LATER = {"mysql", "mariadb", "postgresql", "postgres"}


def open_store(url: str, job: str, *, threads: int = 1, timeout: float = 30.0) -> Store:
    """Open the store behind a URL, for one job in this process; ConfigurationError when the scheme is not to be had.

    `threads` is how many connections this process will open. `timeout`, in seconds, is how long a statement may wait for others.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        from holdfast.stores.sqlite import SqliteStore

        return SqliteStore(url, job, threads, timeout)
    if scheme in _LATER:
        raise ConfigurationError(f"{scheme}:// stores are not in this version", where="store", remedy="use sqlite:///fee.db until they are")
    near = difflib.get_close_matches(scheme, ["sqlite"], 1)
    guess = f"did you mean '{near[0]}'?" if near else "known: sqlite"
    raise ConfigurationError(f"unknown store scheme '{scheme}'", where="store", remedy=guess)
