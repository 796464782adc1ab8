"""The short form of ./scripts/chaos broker: faults of both links under load; nothing lost, nothing doubled."""

import broker_chaos
import pytest

from holdfast.testing.databases import Databases
from servers_kit import Services

SHORT = [
    ("cut-ack", "postgresql"),
    ("cut-commit", "mariadb"),
]


@pytest.mark.parametrize(("fault", "kind"), SHORT)
def test_every_confirmed_message_has_one_effect(fault: str, kind: str, databases: Databases, services: Services) -> None:
    result = broker_chaos.run(fault, kind, services, databases)
    assert result.good, "\n" + broker_chaos.table([result])
