"""SQL strings with `:name` parameters, whatever the database: cut once into what the driver takes, and remembered.

SQLAlchemy's `text()` takes `'{"a":1}'` for a parameter and costs several times as much; so this is ours.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection

from holdfast.errors import HoldfastError

_COMMON = r"""`(?:[^`]|``)*`|/\*.*?\*/|::|:=|:(?P<name>[A-Za-z_]\w*)"""
_STANDARD = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|"""
#: What is skipped whole, before a parameter is looked for: quotes, comments, `::` casts, `:=`.
_TOKENS = {
    "sqlite": _STANDARD + r"\[[^\]\n]*\]|" + _COMMON,
    "mysql": r"""'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"|--(?=\s|$)[^\n]*|\#[^\n]*|""" + _COMMON,
    "postgresql": r"""\b[eE]'(?:[^'\\]|''|\\.)*'|(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag)|""" + _STANDARD + _COMMON,
}
_TOKEN = {name: re.compile(pattern, re.DOTALL) for name, pattern in _TOKENS.items()}
_MANY = (list, tuple, set, frozenset)
_INSERT = re.compile(r"\s*(?:INSERT|REPLACE)\b", re.IGNORECASE)
_WRITES = re.compile(r"\s*(?:INSERT|REPLACE|UPDATE|DELETE)\b", re.IGNORECASE)
_GIVES = re.compile(r"\bRETURNING\b|;\s*\S", re.IGNORECASE)
_VALUES = re.compile(r"\bVALUES?\s*(?=\()", re.IGNORECASE)
_ROW_BY_ROW = re.compile(r"\bDO\s+UPDATE\b|^\s*,", re.IGNORECASE)
_MOST_ROWS, _MOST_BYTES = 1000, 1 << 20
_MOST_VALUES = {"postgresql": 60_000, "mysql": 60_000, "sqlite": 900}


@dataclass(frozen=True, slots=True)
class Statement:
    """The pieces around the parameters, and the parameters' names in order."""

    pieces: tuple[str, ...]
    names: tuple[str, ...]
    plain: str  # with one mark for each parameter
    mark: str
    rows: tuple[str, str, str] | None = None  # an INSERT … VALUES, cut before and behind the one row it names
    writes: bool = False  # it changes rows and gives none
    pick: Callable[[Mapping[str, Any]], tuple[Any, ...]] = lambda _values: ()  # the values of `names`; KeyError

    def bind(self, values: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        """The driver's statement and its values; a list, tuple or set as a value becomes as many marks, in parentheses."""
        chosen = self.values(values)
        for value in chosen:
            if isinstance(value, _MANY):
                return self._expand(chosen)
        return self.plain, chosen

    def values(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values in order; HoldfastError for one that is missing."""
        try:
            return self.pick(values)
        except KeyError as error:
            given = ", ".join(sorted(values)) or "none"
            raise HoldfastError(f"the statement has a parameter :{error.args[0]} that has no value", remedy=f"given are: {given}") from None

    def _expand(self, chosen: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        text, flat = [self.pieces[0]], []
        for value, piece in zip(chosen, self.pieces[1:], strict=True):
            many = list(value) if isinstance(value, _MANY) else None
            text.append(self.mark if many is None else f"({', '.join([self.mark] * len(many)) or 'NULL'})")
            flat.extend([value] if many is None else many)
            text.append(piece)
        return "".join(text), tuple(flat)

    def many(self, every: Sequence[Mapping[str, Any]], dialect: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Statements of many rows each; only where `rows` is known."""
        assert self.rows is not None
        head, row, tail = self.rows
        part: list[Any] = []
        count = size = 0
        most = min(_MOST_ROWS, _MOST_VALUES[dialect] // max(1, len(self.names)))
        for each in every:
            chosen = self.values(each)
            weight = sum(len(value) for value in chosen if isinstance(value, str | bytes))
            if count and (count >= most or size + weight > _MOST_BYTES):
                yield head + ", ".join([row] * count) + tail, tuple(part)
                part, count, size = [], 0, 0
            part.extend(chosen)
            count, size = count + 1, size + weight
        yield head + ", ".join([row] * count) + tail, tuple(part)


@lru_cache(maxsize=1024)
def parse(sql: str, dialect: str = "sqlite") -> Statement:
    """Cut a statement at its parameters."""
    mark = "?" if dialect == "sqlite" else "%s"
    pieces, names, at = [], [], 0
    for match in _TOKEN[dialect].finditer(sql):
        if match["name"]:
            pieces.append(_escaped(sql[at : match.start()], mark))
            names.append(match["name"])
            at = match.end()
    pieces.append(_escaped(sql[at:], mark))
    flat = blanked(sql, dialect)
    writes = bool(_WRITES.match(flat)) and not _GIVES.search(flat)
    return Statement(tuple(pieces), tuple(names), mark.join(pieces), mark, _cut_rows(sql, dialect, mark), writes, _picker(names))


def _picker(names: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) > 1:
        return operator.itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])


def _escaped(piece: str, mark: str) -> str:
    return piece.replace("%", "%%") if mark == "%s" else piece


def _cut_rows(sql: str, dialect: str, mark: str) -> tuple[str, str, str] | None:
    """Around the row of an INSERT … VALUES (…) whose parameters all lie in that row; None for anything else."""
    flat = blanked(sql, dialect)
    values = _VALUES.search(flat) if _INSERT.match(flat) else None
    if values is None:
        return None
    end = _closing(flat, values.end())
    head, row, tail = sql[: values.end()], sql[values.end() : end], sql[end:].rstrip().removesuffix(";")
    names = [len(_names(part, dialect)) for part in (head, row, tail)]
    if end < 0 or names[0] or not names[1] or names[2] or "SELECT" in row.upper() or _ROW_BY_ROW.search(flat[end:]):
        return None
    marked = _TOKEN[dialect].sub(lambda found: "\0" if found["name"] else found[0], row)
    return _escaped(head, mark), _escaped(marked, mark).replace("\0", mark), _escaped(tail, mark)


def _closing(flat: str, opening: int) -> int:
    """Behind the parenthesis that closes the one at `opening`; -1 when none does."""
    depth = 0
    for at in range(opening, len(flat)):
        depth += (flat[at] == "(") - (flat[at] == ")")
        if depth == 0:
            return at + 1
    return -1


def _names(sql: str, dialect: str) -> list[str]:
    return [found["name"] for found in _TOKEN[dialect].finditer(sql) if found["name"]]


def blanked(sql: str, dialect: str) -> str:
    """The statement with quotes and comments blanked out, of the same length. What MySQL executes in a /*! comment */ stays."""

    def blank(found: re.Match[str]) -> str:
        text = found[0]
        if found["name"] or text in ("::", ":="):
            return text
        if dialect == "mysql" and text.startswith(("/*!", "/*M!")):
            return re.sub(r"/\*M?!\d*|\*/", lambda inner: " " * len(inner[0]), text)
        return " " * len(text)

    return _TOKEN[dialect].sub(blank, sql)


def own(connection: Connection, sql: str, values: tuple[Any, ...] | list[tuple[Any, ...]] = ()) -> Any:
    """Run a statement of ours, which is written with ? whatever the driver takes; its CursorResult."""
    if connection.dialect.name != "sqlite":
        sql = sql.replace("?", "%s")
    return connection.exec_driver_sql(sql, values)


_BODY = re.compile(r"\s*CREATE\b.*\b(?:TRIGGER|PROCEDURE|FUNCTION|EVENT)\b", re.IGNORECASE | re.DOTALL)


def split(script: str, dialect: str = "sqlite") -> list[str]:
    """The statements of a script, each whole: semicolons in quotes, comments and trigger bodies do not end one."""
    flat, found, begun = blanked(script, dialect), [], 0
    for mark in re.finditer(";", flat):
        part = flat[begun : mark.end()]
        if not _in_a_body(part):
            found.append(script[begun : mark.end()].strip())
            begun = mark.end()
    found.append(script[begun:].strip())
    return [statement for statement in found if statement.strip("; \t\r\n")]


def _in_a_body(part: str) -> bool:
    if not _BODY.match(part):
        return False
    return len(re.findall(r"\bBEGIN\b", part, re.IGNORECASE)) > len(re.findall(r"\bEND\s*;", part, re.IGNORECASE))
