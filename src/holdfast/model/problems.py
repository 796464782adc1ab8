"""Mistakes of one pass, shown together: who has made three of them wants to hear of three."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.errors import ConfigurationError


class Problems:
    """Collects configuration errors in the order in which they were found."""

    def __init__(self) -> None:
        self._found: list[ConfigurationError] = []

    def add(self, message: str, *, where: str = "", remedy: str = "") -> None:
        """One more."""
        self._found.append(ConfigurationError(message, where=where, remedy=remedy))

    @contextmanager
    def caught(self, where: str = "") -> Iterator[None]:
        """Go on after an error inside; its place is `where` unless it brings one."""
        try:
            yield
        except ConfigurationError as error:
            error.where = error.where or where
            self._found.append(error)

    def settle(self) -> None:
        """Raise what was found: the error itself, or one that lists them all."""
        texts = list(dict.fromkeys(str(error) for error in self._found))
        if len(texts) == 1:
            raise self._found[0]
        if texts:
            raise ConfigurationError("\n  ".join([f"{len(texts)} things are wrong with the configuration:", *texts]))
