"""Stores: the databases whose transactions hold the effects. Each driver is imported in its own file, when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import ConfigurationError
from holdfast.model.urls import parse_store

if TYPE_CHECKING:
    from holdfast.stores.base import Store


def open_store(url: str, job: str, *, threads: int = 1, timeout: float = 30.0) -> Store:
    """Open the store behind a URL, for one job in this process; ConfigurationError when the scheme or its driver is not to be had.

    `threads` is how many connections this process will open. `timeout`, in seconds, is how long a statement may wait for others.
    """
    address = parse_store(url)
    try:
        if address.scheme == "sqlite":
            from holdfast.stores.sqlite import SqliteStore

            return SqliteStore(url, job, threads, timeout)
        if address.scheme == "mysql":
            from holdfast.stores.mysql import MysqlStore

            return MysqlStore(url, job, threads, timeout)
        from holdfast.stores.postgresql import PostgresStore

        return PostgresStore(url, job, threads, timeout)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{address.written}:// stores need {error.name}, which is not installed",
            where="store",
            remedy=f"pip install 'holdfast[{address.extra}]'",
        ) from None  # where it was missed tells nobody anything
