"""The whole tree of errors that Holdfast raises for its reader, each with its exit status.

A message says what happened; `where` names the place (file and line, key, command), `remedy` says what to do.
"""

from __future__ import annotations


class HoldfastError(Exception):
    """Something went wrong and the reader can do something about it."""

    exit_status = 1

    def __init__(self, message: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{place}{self.message}{remedy}"


class UsageError(HoldfastError):
    """The command line is wrong."""

    exit_status = 2


class ConfigurationError(HoldfastError):
    """A file, a variable, a flag or a class attribute holds a value that cannot be used."""

    exit_status = 2


class NoRightsError(HoldfastError):
    """The caller may not do this."""

    exit_status = 4


class AppError(HoldfastError):
    """The application failed: at import, in `prepare`, in `setup`. `trace` is its traceback."""

    exit_status = 1

    def __init__(self, message: str, *, where: str = "", remedy: str = "", trace: str = "") -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.trace = trace


class UnavailableError(HoldfastError):
    """A port, a broker or a store was not to be had in time."""

    exit_status = 5


class RefusedError(HoldfastError):
    """The daemon refused the command; nothing has changed."""

    exit_status = 1


class NotRunningError(HoldfastError):
    """The command needs a running daemon."""

    exit_status = 7


class InternalError(HoldfastError):
    """Our own bug: please report it."""

    exit_status = 70
