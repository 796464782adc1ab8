"""Values through JSON: what comes back is what went in; what is something else is refused."""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model.frozen import UnknownForm, freeze, thaw


class Colour(Enum):
    RED = 1
    BLUE = "b"


@dataclass
class Inner:
    number: int
    colour: Colour
    names: frozenset[str] = frozenset()


@dataclass
class Whole:
    text: str
    data: bytes
    maybe: float | None
    word: Literal["this", "that"]
    pair: tuple[int, str]
    row: tuple[int, ...]
    inner: list[Inner]
    by_number: Mapping[int, Inner]
    by_pair: dict[tuple[str, str], bool]
    queue: deque[float]
    numbers: set[int] = field(default_factory=set)
    either: int | str = 0


NUMBERS = st.floats(allow_nan=False)  # which is not equal to itself


@given(st.builds(Whole, maybe=st.none() | NUMBERS, queue=st.builds(deque, st.lists(NUMBERS))))
def test_there_and_back(value: Whole) -> None:
    assert thaw(Whole, json.loads(json.dumps(freeze(value)))) == value


def test_a_field_may_come_or_go() -> None:
    assert thaw(Inner, {"number": 1, "colour": "RED", "gone": 5}) == Inner(1, Colour.RED)


WRONG: list[tuple[Any, str]] = [
    ({"colour": "RED"}, "Inner.number is missing"),
    ({"number": "1", "colour": "RED"}, "Inner.number: str"),
    ({"number": True, "colour": "RED"}, "Inner.number: bool"),
    ({"number": None, "colour": "RED"}, "Inner.number: NoneType"),
    ({"number": 1, "colour": "GREEN"}, "Inner.colour"),
    ({"number": 1, "colour": "RED", "names": "x"}, "Inner.names: str"),
    ({"number": 1, "colour": "RED", "names": [1]}, r"Inner.names\[0\]: int"),
    ([], "Inner: list"),
]


@pytest.mark.parametrize(("data", "what"), WRONG)
def test_what_is_something_else_is_refused_by_name(data: Any, what: str) -> None:
    with pytest.raises(UnknownForm, match=what):
        thaw(Inner, data)


def test_what_is_no_plain_value_cannot_be_frozen() -> None:
    with pytest.raises(TypeError, match="function"):
        freeze({"f": freeze})
