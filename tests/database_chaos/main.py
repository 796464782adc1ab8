"""The long form: ./scripts/chaos database [--fault NAME]… [--server NAME]… [--rounds 10]; lines as they come, and a table."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import database
from chaos_kit import Result, table

from holdfast.model.faults import POINTS
from holdfast.testing.databases import Databases
from servers_kit import Services


def trials(given: argparse.Namespace, databases: Databases, services: Services) -> Iterator[tuple[str, str, Callable[[], Result]]]:
    """Every scenario on every server: the server, the fault, and what plays it."""
    for kind in given.server or database.SERVERS:
        for fault in given.fault or [*database.SCENARIOS, "poison", "two-daemons", "points"]:
            if fault == "two-daemons":
                yield kind, fault, partial(database.two_daemons, kind, databases, services, 2000 * given.rounds)
            elif fault == "poison":
                yield kind, fault, partial(database.poison, kind, databases, services)
            elif fault == "points":
                for point in POINTS:
                    yield kind, f"SIGKILL {point}", partial(database.fault_points, kind, databases, services, point, 10 * given.rounds)
            else:
                yield kind, fault, partial(database.run, fault, kind, databases, services, given.rounds)


def play(kind: str, fault: str, trial: Callable[[], Result]) -> Result:
    """One line of the table, printed at once: a later trial may not come to its end."""
    try:
        result = trial()
    except Exception:
        traceback.print_exc()
        result = Result(fault, kind, 0, 0, 0, 0, 0, 1, 0, 0.0, "did not come to its end")
    print(table([result]), file=sys.stderr, flush=True)
    return result


def main() -> int:
    """Run, print, 0 when all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=["database"])
    parser.add_argument("--fault", action="append", help="a scenario; may be repeated; default: all")
    parser.add_argument("--server", action="append", help="mariadb or postgresql; default: both")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        services = Services(folder)
        try:
            with Databases(services.url, folder) as databases:
                for kind, fault, trial in trials(given, databases, services):
                    results.append(play(kind, fault, trial))
        finally:
            services.stop()
    print(table(results))
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
