"""A name that one process alone has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
    hold, other = opened().hold("relay Fee"), opened()
    taken = eventually(lambda: other.hold("relay Fee"), "another one has it")
    assert not hold.held()
    taken.release()
    hold.release()
