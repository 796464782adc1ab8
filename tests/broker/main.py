"""Faults of a broker, and of the links to it and to the database, under load."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import broker_chaos
from broker_chaos import Result, table

import long_form
from holdfast.testing.databases import Databases
from servers_kit import Services


def trials(given: argparse.Namespace, databases: Databases, services: Services) -> Iterator[long_form.Trial[Result]]:
    """Every fault with every database."""
    for kind in given.server:
        for fault in given.fault:
            yield fault, kind, partial(broker_chaos.run, fault, kind, services, databases, given.rounds)


def unfinished(fault: str, kind: str) -> Result:
    return Result(fault, kind, note="did not come to its end")


if __name__ == "__main__":
    given = long_form.arguments(__doc__, "broker", [*broker_chaos.SCENARIOS], broker_chaos.SERVERS)
    sys.exit(long_form.play(given, trials, unfinished, table))
