"""SQL strings with `:name` parameters, whatever the database: cut once into what the driver takes, and remembered.

SQLAlchemy's `text()` takes `'{"a":1}'` for a parameter and costs several times as much; so this is ours.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from holdfast.errors import HoldfastError

#: What is skipped whole, before a parameter is looked for: quotes, comments, `::` casts, `:=`.
_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]\n]*\]|--[^\n]*|/\*.*?\*/|::|:=|:(?P<name>[A-Za-z_]\w*)""", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Statement:
    """The pieces around the parameters, and the parameters' names in order."""

    pieces: tuple[str, ...]
    names: tuple[str, ...]
    plain: str  # with one mark for each parameter

    def bind(self, values: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
        """The driver's statement and its values; a list, tuple or set as a value becomes as many marks, in parentheses."""
        try:
            chosen = tuple([values[name] for name in self.names])
        except KeyError as error:
            given = ", ".join(sorted(values)) or "none"
            raise HoldfastError(f"the statement has a parameter :{error.args[0]} that has no value", remedy=f"given are: {given}") from None
        for value in chosen:
            if isinstance(value, list | tuple | set | frozenset):
                return self._expand(chosen)
        return self.plain, chosen

    def _expand(self, chosen: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        text, flat = [self.pieces[0]], []
        for value, piece in zip(chosen, self.pieces[1:], strict=True):
            many = list(value) if isinstance(value, list | tuple | set | frozenset) else None
            text.append("?" if many is None else f"({', '.join('?' * len(many)) or 'NULL'})")
            flat.extend([value] if many is None else many)
            text.append(piece)
        return "".join(text), tuple(flat)


@lru_cache(maxsize=1024)
def parse(sql: str) -> Statement:
    """Cut a statement at its parameters."""
    pieces, names, at = [], [], 0
    for match in _TOKEN.finditer(sql):
        if match["name"]:
            pieces.append(sql[at : match.start()])
            names.append(match["name"])
            at = match.end()
    pieces.append(sql[at:])
    return Statement(tuple(pieces), tuple(names), "?".join(pieces))


def split(script: str) -> list[str]:
    """The statements of a script, each whole: semicolons in quotes, comments and trigger bodies do not end one."""
    found, begun = [], ""
    for part in re.split(r"(?<=;)", script):
        begun += part
        if begun.strip() and sqlite3.complete_statement(begun):
            found.append(begun.strip())
            begun = ""
    if begun.strip():
        found.append(begun.strip())
    return found
