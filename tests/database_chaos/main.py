"""Faults of database servers, and of the links to them, under load."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import database
from chaos_kit import Result, table

import long_form
from holdfast.model.faults import POINTS
from holdfast.testing.databases import Databases
from servers_kit import Services

FAULTS = [*database.SCENARIOS, "poison", "two-daemons", "points"]


def trials(given: argparse.Namespace, databases: Databases, services: Services) -> Iterator[long_form.Trial[Result]]:
    """Every fault on every server."""
    for kind in given.server:
        where = (kind, databases, services)
        for fault in given.fault:
            if fault == "two-daemons":
                yield fault, kind, partial(database.two_daemons, *where, 2000 * given.rounds)
            elif fault == "poison":
                yield fault, kind, partial(database.poison, *where)
            elif fault == "points":
                for point in POINTS:
                    yield f"SIGKILL {point}", kind, partial(database.fault_points, *where, point, 10 * given.rounds)
            else:
                yield fault, kind, partial(database.run, fault, *where, given.rounds)


def unfinished(fault: str, kind: str) -> Result:
    return Result(fault, kind, note="did not come to its end")


if __name__ == "__main__":
    given = long_form.arguments(__doc__, "database", FAULTS, database.SERVERS)
    sys.exit(long_form.play(given, trials, unfinished, table))
