"""The long forms of the chaos of servers: `./scripts/chaos database` and `./scripts/chaos broker`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from holdfast.testing.databases import Databases
from servers_kit import Services


class Line(Protocol):
    """A line of the table."""

    @property
    def good(self) -> bool: ...


L = TypeVar("L", bound=Line)
Trial = tuple[str, str, Callable[[], L]]
"""The fault, the server, and what plays it."""
Trials = Callable[[argparse.Namespace, Databases, Services], Iterable[Trial[L]]]


def arguments(doc: str | None, group: str, faults: Sequence[str], servers: Sequence[str]) -> argparse.Namespace:
    """What was asked for; everything by default."""
    parser = argparse.ArgumentParser(prog=f"./scripts/chaos {group}", description=doc)
    parser.add_argument("group", choices=[group], help=argparse.SUPPRESS)
    parser.add_argument("--fault", action="append", choices=faults, help="may be repeated; default: all")
    parser.add_argument("--server", action="append", choices=servers, help="may be repeated; default: both")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    given.fault, given.server = given.fault or faults, given.server or servers
    return given


def play(given: argparse.Namespace, trials: Trials[L], unfinished: Callable[[str, str], L], table: Callable[[list[L]], str]) -> int:
    """Play every trial on private servers, and print each line as it comes, for a later one may hang; 0 when all are good."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    lines: list[L] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        services = Services(folder)
        try:
            with Databases(services.url, folder) as databases:
                for fault, server, trial in trials(given, databases, services):
                    try:
                        lines.append(trial())
                    except Exception:
                        traceback.print_exc()
                        lines.append(unfinished(fault, server))
                    print(table(lines[-1:]), file=sys.stderr, flush=True)
        finally:
            services.stop()
    print(table(lines))
    return 0 if all(line.good for line in lines) else 1
