"""Values as JSON and back, by their declared types: what one program of ours hands to the next.

A value's own declaration is its format: a field that the reader does not know is left out, one that the writer did not know gets
its default. So a field may come or go without a new version, as long as it has a default; a field that changes its meaning may not.
"""

from __future__ import annotations

import enum
import types
from collections import deque
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_ROWS: dict[Any, Any] = {list: list, deque: deque, tuple: tuple, set: set, frozenset: frozenset, Sequence: list, AbstractSet: frozenset}
_PLAIN = (str, int, float, bool)


class UnknownForm(ValueError):
    """What was written is not what is declared."""


def freeze(value: Any) -> Any:  # noqa: PLR0911 - one line a kind of value
    """The value as JSON can carry it. TypeError for what is no plain value, such as a function or a socket."""
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.decode("latin-1")
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: freeze(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: freeze(one) for key, one in value.items()}
        return [[freeze(key), freeze(one)] for key, one in value.items()]
    if isinstance(value, AbstractSet):
        return sorted((freeze(one) for one in value), key=repr)  # a set has no order that two processes agree on
    if isinstance(value, (list, tuple, deque)):
        return [freeze(one) for one in value]
    raise TypeError(f"{type(value).__name__} cannot be frozen")


def thaw(kind: type[T], data: Any) -> T:
    """The value of this type that was frozen. UnknownForm when `data` is nothing of the kind."""
    value: T = _thaw(kind, data, kind.__name__)
    return value


def _thaw(kind: Any, data: Any, where: str) -> Any:  # noqa: PLR0911 - one line a kind of type
    origin = get_origin(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _thaw_union(get_args(kind), data, where)
    if origin is Literal:
        return _same(data, data in get_args(kind), where)
    if is_dataclass(kind):
        return _thaw_fields(kind, _same(data, isinstance(data, dict), where), where)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind[_same(data, isinstance(data, str) and data in kind.__members__, where)]
    if kind in (bytes, bytearray):
        return kind(_same(data, isinstance(data, str), where).encode("latin-1"))
    if kind in _PLAIN:
        return _thaw_plain(kind, data, where)
    if origin in (dict, Mapping):
        return _thaw_map(get_args(kind), data, where)
    if origin in _ROWS:
        return _thaw_row(origin, get_args(kind), _same(data, isinstance(data, list), where), where)
    raise TypeError(f"{where}: {kind} cannot be thawed")


def _thaw_plain(kind: Any, data: Any, where: str) -> Any:
    if kind is float:
        return float(_same(data, isinstance(data, (int, float)) and not isinstance(data, bool), where))
    return _same(data, isinstance(data, kind) and (kind is bool or not isinstance(data, bool)), where)


def _thaw_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others[:-1]:
        try:
            return _thaw(kind, data, where)
        except UnknownForm:
            continue
    return _thaw(others[-1], data, where)


def _thaw_map(kinds: tuple[Any, ...], data: Any, where: str) -> dict[Any, Any]:
    """An object; a list of pairs where keys are no texts."""
    key_kind, kind = kinds
    pairs = data.items() if isinstance(data, dict) else _same(data, isinstance(data, list), where)
    return {_thaw(key_kind, key, where): _thaw(kind, one, f"{where}.{key}") for key, one in pairs}


def _thaw_row(row: Any, kinds: tuple[Any, ...], data: list[Any], where: str) -> Any:
    if row is tuple and kinds[-1] is not Ellipsis:
        _same(data, len(data) == len(kinds), where)
        return tuple(_thaw(kind, one, where) for kind, one in zip(kinds, data, strict=True))
    return _ROWS[row](_thaw(kinds[0], one, f"{where}[{number}]") for number, one in enumerate(data))


def _thaw_fields(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints, given = _hints(kind), {}
    for one in fields(kind):
        if one.name in data:
            given[one.name] = _thaw(hints[one.name], data[one.name], f"{where}.{one.name}")
        elif one.default is MISSING and one.default_factory is MISSING:
            raise UnknownForm(f"{where}.{one.name} is missing")
    return kind(**given)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _same(data: Any, fits: bool, where: str) -> Any:
    if not fits:
        raise UnknownForm(f"{where}: {type(data).__name__} is not what belongs there")
    return data
