"""The long form: ./scripts/chaos broker [--fault NAME]… [--server NAME]… [--rounds 10]; lines as they come, and a table."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import broker_chaos
from broker_chaos import Result, table

from holdfast.testing.databases import Databases
from servers_kit import Services


def main() -> int:
    """Run, print, 0 when all went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group", choices=["broker"])
    parser.add_argument("--fault", action="append", choices=[*broker_chaos.SCENARIOS], help="may be repeated; default: all")
    parser.add_argument("--server", action="append", choices=broker_chaos.SERVERS, help="may be repeated; default: both")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = []
    with tempfile.TemporaryDirectory(prefix="holdfast-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        services = Services(folder)
        try:
            with Databases(services.url, folder) as databases:
                for kind in given.server or broker_chaos.SERVERS:
                    for fault in given.fault or broker_chaos.SCENARIOS:
                        try:
                            results.append(broker_chaos.run(fault, kind, services, databases, given.rounds))
                        except Exception:
                            traceback.print_exc()
                            results.append(Result(fault, kind, note="did not come to its end"))
                        print(table(results[-1:]), file=sys.stderr, flush=True)
        finally:
            services.stop()
    print(table(results))
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
