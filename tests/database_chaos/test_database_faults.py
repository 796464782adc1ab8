"""The short form of ./scripts/chaos database: the gravest faults once, on both servers; nothing lost, nothing doubled."""

from typing import Any

import database
import pytest
from chaos_kit import Result, table

from holdfast.testing.databases import Databases

FAULTS = ("cut-commit", "away", "kill-server", "slow", "stall")
SHORT = [(fault, kind) for fault in FAULTS for kind in database.SERVERS]


def check(result: Result) -> None:
    assert result.good, "\n" + table([result])


@pytest.mark.parametrize(("fault", "kind"), SHORT)
def test_nothing_is_lost_or_doubled(kind: str, fault: str, databases: Databases, services: Any) -> None:
    check(database.run(fault, kind, databases, services))


@pytest.mark.parametrize("kind", database.SERVERS)
def test_workers_that_begin_while_the_store_is_away_wait_for_it(kind: str, databases: Databases, services: Any) -> None:
    check(database.begin_without_a_store(kind, databases, services))


@pytest.mark.parametrize("kind", database.SERVERS)
def test_a_message_that_kills_its_workers_ends_alone(kind: str, databases: Databases, services: Any) -> None:
    check(database.poison(kind, databases, services))


@pytest.mark.parametrize("kind", database.SERVERS)
def test_overlapping_identities_of_two_daemons_have_one_effect(kind: str, databases: Databases, services: Any) -> None:
    check(database.two_daemons(kind, databases, services))


@pytest.mark.parametrize("kind", database.SERVERS)
@pytest.mark.parametrize("point", ["after-record", "after-commit"])
def test_workers_that_die_between_two_steps(kind: str, point: str, databases: Databases, services: Any) -> None:
    check(database.fault_points(kind, databases, services, point))
