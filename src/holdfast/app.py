"""What an app file ends with: `Daemon(Fee).main()`."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from typing import ClassVar, NoReturn

from holdfast.errors import HoldfastError, NoRightsError, UsageError
from holdfast.model.job import Job


class Daemon:
    """Declares which jobs an app file runs. Building one does nothing; `main` hands over to the `holdfast` command."""

    #: Every Daemon of this process, in the order of their making: the zygote reads which jobs to run by default.
    declared: ClassVar[list[Daemon]] = []

    def __init__(self, *jobs: type[Job], name: str = "") -> None:
        for job in jobs:
            if not (isinstance(job, type) and issubclass(job, Job)):
                raise UsageError(f"Daemon takes Job classes, not {job!r}", remedy="write Daemon(Fee), without parentheses after Fee")
        self.jobs = jobs
        self.name = name
        Daemon.declared.append(self)

    def main(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Run `holdfast VERB THIS_FILE …` in place of this process; never returns."""
        words = list(sys.argv[1:] if argv is None else argv)
        try:
            file = _app_file()
            if os.geteuid() == 0:
                _refuse_writable(file, words[0] if words else "VERB")
        except HoldfastError as error:
            print(f"holdfast: {error}", file=sys.stderr)
            sys.exit(error.exit_status)
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", "holdfast", *_command(words, file, self.name)])


def _command(words: Sequence[str], file: str, name: str) -> list[str]:
    """`VERB options` as `VERB FILE options`. The name is what the class says: below what holdfast.toml says, unlike --name."""
    if not words or words[0].startswith("-"):
        return list(words) or ["help"]
    declared = ["--declared-name", name] if name and words[0] != "help" else []
    return [words[0], file, *declared, *words[1:]]


def _app_file() -> str:
    file: str | None = getattr(sys.modules["__main__"], "__file__", None)
    if not file:
        raise UsageError("Daemon.main() works in an app file only", remedy="run it as: python fee.py VERB")
    return os.path.abspath(file)


def _refuse_writable(file: str, verb: str) -> None:
    for path in (file, os.path.dirname(file)):
        facts = os.stat(path)
        if facts.st_uid != 0 or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise NoRightsError(
                f"{path} can be written by others than root, and root would run it",
                remedy=f"use 'holdfast {verb} {file}', which never runs it as root",
            )
