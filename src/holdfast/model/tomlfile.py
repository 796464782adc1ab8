"""TOML with places: what a text says, and on which line it says it. tomllib knows the first, a small scanner the second."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from holdfast.errors import ConfigurationError

Path = tuple[str, ...]

_AT = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_COMMENT = re.compile(r"#[^\n]*")
_SPACE = re.compile(r"[ \t]*")


def parse(text: str, name: str) -> dict[str, Any]:
    """The tables of a TOML text. ConfigurationError with name, line and column where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(
            f"not TOML: {_AT.sub('', str(error))}", where=f"{name}{_place(str(error), text)}", remedy="correct that line"
        ) from None
    except RecursionError:
        raise ConfigurationError("not TOML: nested too deeply", where=name) from None


def lines(text: str) -> dict[Path, int]:
    """The line of every table and key of a text that `parse` has taken. Keys of inline tables count as their table's."""
    return _Scanner(text).scan()


def line_of(known: Mapping[Path, int], path: Path) -> int:
    """The line of a key, or of the nearest thing around it that has one; 0 when nothing has."""
    while path and path not in known:
        path = path[:-1]
    return known.get(path, 0)


def _place(message: str, text: str) -> str:
    found = _AT.search(message)
    if found is None:
        return ""
    if found[1] is None:
        rows = text.split("\n")
        return f":{len(rows)}:{len(rows[-1]) + 1}"
    return f":{found[1]}:{found[2]}"


class _Scanner:
    """Walks over statements. The text is known to be TOML, so nothing here looks for mistakes."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._table: Path = ()
        self._found: dict[Path, int] = {}

    def scan(self) -> dict[Path, int]:
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                self._header()
            else:
                self._statement()
            self._skip(_BLANK)
        return self._found

    def _header(self) -> None:
        line = self._line()
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        self._table = self._key()
        self._at += brackets
        self._note(self._table, line)

    def _statement(self) -> None:
        line = self._line()
        self._note((*self._table, *self._key()), line)
        self._at += 1  # the equals sign
        self._value()

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self._found.setdefault(path[:length], line)
        self._found[path] = line

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()

    def _key(self) -> Path:
        """A dotted key, up to the character behind it."""
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            parts.append(self._part())
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return tuple(parts)
            self._at += 1

    def _part(self) -> str:
        found = _STRING.match(self._text, self._at) or _BARE.match(self._text, self._at)
        if found is None:
            raise AssertionError(f"no key at {self._at} of a text that tomllib took")
        self._at = found.end()
        return str(tomllib.loads(f"key = {found[0]}")["key"]) if found[0][0] in "\"'" else found[0]

    def _value(self) -> None:
        """Skip a value: to the end of its line, or of the line where its last bracket closes."""
        depth = 0
        while self._at < len(self._text):
            string = _STRING.match(self._text, self._at)
            if string:
                self._at = string.end()
                continue
            self._skip(_COMMENT)
            character = self._text[self._at : self._at + 1]
            if character == "\n" and depth <= 0:
                return
            depth += (character in ("[", "{")) - (character in ("]", "}"))
            self._at += 1
