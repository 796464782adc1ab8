"""The long form: ./scripts/chaos database [--fault NAME]… [--server NAME]… [--rounds 10]; a table at the end."""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import database
from chaos_kit import Result, table

from holdfast.model.faults import POINTS
from holdfast.testing.databases import Databases
from servers_kit import Services


def database_table(given: argparse.Namespace, databases: Databases, services: Services) -> list[Result]:
    """Every scenario on every server."""
    results = []
    faults = given.fault or [*database.SCENARIOS, "two-daemons", "points"]
    for kind in given.server or database.SERVERS:
        for fault in faults:
            print(f"{kind}: {fault}", file=sys.stderr, flush=True)
            try:
                if fault == "two-daemons":
                    results.append(database.two_daemons(kind, databases, services, 2000 * given.rounds))
                elif fault == "points":
                    results += [database.fault_points(kind, databases, services, point, 10 * given.rounds) for point in POINTS]
                else:
                    results.append(database.run(fault, kind, databases, services, given.rounds))
            except Exception:
                traceback.print_exc()
                results.append(Result(fault, kind, 0, 0, 0, 0, 0, 1, 0, 0.0, "did not come to its end"))
    return results


def main() -> int:
    """Run, print, 0 when all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=["database"])
    parser.add_argument("--fault", action="append", help="a scenario; may be repeated; default: all")
    parser.add_argument("--server", action="append", help="mariadb or postgresql; default: both")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        services = Services(folder)
        try:
            with Databases(services.url, folder) as databases:
                results = database_table(given, databases, services)
        finally:
            services.stop()
    print(table(results))
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
