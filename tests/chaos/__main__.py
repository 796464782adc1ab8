"""`./scripts/chaos [SCENARIO …] [--seconds 60] [--every 2] [--rate 1000]`: run scenarios, print the table; 1 when a promise was broken."""

import argparse
import sys

from chaos.scenarios import SCENARIOS
from chaos.stage import Plan, play
from holdfast.testing.crowd import table


def main() -> int:
    """Play what was asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="./scripts/chaos", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"which, all by default: {', '.join(SCENARIOS)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each one lasts")
    parser.add_argument("--every", type=float, help="seconds between two disturbances; each scenario has its own default")
    parser.add_argument("--rate", type=float, default=1000.0, help="messages a second; 0: as fast as they are answered")
    parser.add_argument("--list", action="store_true", help="say what there is")
    given = parser.parse_args()
    unknown = set(given.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    if given.list:
        for name, module in SCENARIOS.items():
            print(f"{name:16}{module.SUMMARY}")
        return 0
    rows = [play(SCENARIOS[name], Plan(name, given.seconds, given.every, given.rate or None)) for name in given.scenarios or SCENARIOS]
    print(table(rows))
    return 0 if all(row.fine for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
