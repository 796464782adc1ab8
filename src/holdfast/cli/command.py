"""What a command is: a name, what it is for, its arguments, what it does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from holdfast.errors import UsageError
from holdfast.model.inputs import Inputs
from holdfast.model.options import DaemonOptions
from holdfast.supervisor import inputs as reading


@dataclass(frozen=True, slots=True)
class Call:
    """One command as it was given: which daemon is meant, and where the caller stands."""

    target: str
    flags: Mapping[str, str]
    environ: Mapping[str, str]
    cwd: str

    def load(self, *, foreground: bool = False) -> Inputs:
        """Read target and configuration file."""
        return reading.load(self.target, self.flags, self.environ, self.cwd, foreground)

    def whereabouts(self) -> DaemonOptions:
        """Where the daemon is to be found, also when app or configuration are broken."""
        return reading.whereabouts(self.target, self.flags, self.environ, self.cwd)


@dataclass(frozen=True, slots=True)
class Command:
    """One verb. `run` returns the exit status; HoldfastError carries its own, which `statuses` may change."""

    name: str
    summary: str
    details: str
    run: Callable[[argparse.Namespace, Call], int]
    configure: Callable[[argparse.ArgumentParser], None] = lambda _parser: None
    statuses: Mapping[int, int] = field(default_factory=dict)


class Parser(argparse.ArgumentParser):
    """Says mistakes as ours are said."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, remedy=f"see '{self.prog} --help'")


def parser_of(command: Command) -> Parser:
    """The command's own parser."""
    parser = Parser(
        prog=f"holdfast {command.name}",
        description=command.details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "target", nargs="?", default="", metavar="TARGET", help="a .py file, a holdfast.toml, or its folder; default: ./holdfast.toml"
    )
    command.configure(parser)
    _add_options(parser)
    return parser


def call_of(arguments: argparse.Namespace) -> Call:
    """The daemon that is meant."""
    cwd = _working_directory()
    flags: dict[str, str] = {}
    for item in arguments.set:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"'{item}' sets nothing", where="--set", remedy="write --set jobs.Fee.processes=4")
        flags[key.strip()] = value
    flags |= {key: value for key in ("name", "user", reading.DECLARED_NAME) if (value := getattr(arguments, key)) is not None}
    for key in ("run_dir", "state_dir", "log", reading.CONFIG):
        value = getattr(arguments, key)
        if value is not None:
            # What is typed belongs to where it is typed; what stands in a file, to the file's folder.
            flags[key] = value if value in ("", "-") else os.path.normpath(os.path.join(cwd, value))
    return Call(arguments.target, flags, dict(os.environ), cwd)


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working directory is gone", remedy="cd to another one") from None


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which daemon, and how")
    group.add_argument("--config", metavar="FILE", help="another configuration than holdfast.toml beside the app")
    group.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="an option: stop_timeout=5s, jobs.Fee.processes=4")
    group.add_argument("--name", metavar="NAME", help="name of the daemon")
    group.add_argument("--run-dir", metavar="DIR", help="folder of PID file, lock and control socket")
    group.add_argument("--state-dir", metavar="DIR", help="folder of dead letters and log")
    group.add_argument("--user", metavar="USER", help="user to run as, when root starts it")
    group.add_argument("--log", metavar="FILE", help="log file; '-' is standard error")
    group.add_argument("--declared-name", dest=reading.DECLARED_NAME, help=argparse.SUPPRESS)
