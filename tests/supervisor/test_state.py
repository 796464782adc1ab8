"""The state of a supervisor on its way to the next program."""

import dataclasses
import json
import types
from collections import deque
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.model.fleet import Fleet
from holdfast.model.fleet_events import Launch, Plan, Ready, Roll
from holdfast.model.fleet_state import FleetState
from holdfast.model.frozen import UnknownForm, freeze, thaw
from holdfast.supervisor.offspring import Program
from holdfast.supervisor.state import VERSION, Envelope, State

_JSON = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=3))
_ROWS: dict[Any, Any] = {list: list, set: set, frozenset: frozenset, deque: deque}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a declared type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return _JSON
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{one.name: values(hints[one.name]) for one in dataclasses.fields(kind)})
    if origin in (Union, types.UnionType):
        return st.one_of([values(one) for one in arguments])
    if origin in (dict, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return st.tuples(*map(values, arguments))
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin in _ROWS:
        return st.lists(values(arguments[0]), max_size=2).map(_ROWS[origin])
    return st.floats(allow_nan=False) if kind is float else st.from_type(kind)


@settings(max_examples=25, suppress_health_check=list(HealthCheck), deadline=None)
@given(values(State))
def test_every_state_comes_back_as_it_went(state: State) -> None:
    there = Envelope.of(state, Program("/usr/bin/python3", "/x/process.py")).to_bytes()
    back = Envelope.from_bytes(there)
    assert back.writer == Program("/usr/bin/python3", "/x/process.py")
    assert freeze(back.opened()) == freeze(state)
    assert back.descriptors == list(state.descriptors())


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1])
def test_another_version_is_refused(version: int) -> None:
    envelope = Envelope(version, {}, [], Program("a", "b"))
    with pytest.raises(UnknownForm, match=f"of version {version}, and this program knows {VERSION}"):
        Envelope.from_bytes(envelope.to_bytes()).opened()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"version": "1"}'])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(UnknownForm):
        Envelope.from_bytes(data)


def _fleet() -> Fleet:
    fleet = Fleet()
    fleet.handle(Launch(1, {"a": Plan(2), "b": Plan(1, overlap=False)}), 1.0)
    fleet.handle(Ready("a/0.1"), 2.0)
    return fleet


def test_a_fleet_goes_on_where_it_was() -> None:
    """The same events have the same effects in the one that was kept and in the one that was handed over."""
    kept = _fleet()
    data = json.loads(json.dumps(freeze(FleetState.of(_fleet()))))
    other = thaw(FleetState, data).fleet(lambda: 1.0)
    events: list[Any] = [Ready("a/1.2"), Ready("b/0.3"), Roll(2, {"a": Plan(1), "b": Plan(1)}, 0.0), Ready("a/0.4")]
    for number, event in enumerate(events):
        assert other.handle(event, 3.0 + number) == kept.handle(event, 3.0 + number)
    assert dataclasses.replace(other, jitter=kept.jitter) == kept


def test_a_fleet_that_rolls_is_not_handed_over() -> None:
    fleet = _fleet()
    fleet.handle(Roll(2, {"a": Plan(2)}, 0.0), 3.0)
    with pytest.raises(ValueError, match="not at rest"):
        FleetState.of(fleet)
