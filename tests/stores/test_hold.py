"""A name that one process alone has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy

from holdfast.testing import eventually


def test_one_has_it_until_it_is_given_back(store: Any, opened: Callable[..., Any]) -> None:
    hold, other = store.hold("relay Fee"), opened()
    assert other.hold("relay Fee") is None
    assert hold.held()
    other.hold("relay Other").release()
    hold.release()
    eventually(lambda: other.hold("relay Fee"), "it is free").release()


@pytest.mark.parametrize("kind", ["mariadb", "postgresql"], indirect=True)
def test_who_says_nothing_loses_it(opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that stands still, or is cut off: its session may live for hours."""
    monkeypatch.setattr("holdfast.stores.hold.HOLD_SECONDS", 2.0)
    one, other = opened(), opened()
    hold = eventually(lambda: _taken(one), "one has it")
    taken = eventually(lambda: _taken(other), "another one has it")
    assert not hold.held()
    taken.release()
    hold.release()


def _taken(store: Any) -> Any:
    """None as well when this machine stood still for so long that the server has ended the session that asked."""
    with suppress(sqlalchemy.exc.DBAPIError):
        return store.hold("relay Fee")
    return None
