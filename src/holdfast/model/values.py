"""From a value as somebody wrote it to the value that an option has, or to a sentence that says what is wrong with it."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass
from typing import Any

from holdfast.errors import ConfigurationError
from holdfast.model import units
from holdfast.model.references import ReadSecret, expand
from holdfast.model.urls import masked

_BOOLS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_MOST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Written:
    """A value as written, and where."""

    value: Any
    origin: str  # "default", "class fee.py:7", "holdfast.toml:12", "HOLDFAST_NAME", "--set"


def resolve(option: Field[Any], written: Written, environ: Mapping[str, str], read_secret: ReadSecret) -> Any:
    """The option's value. ConfigurationError, without a place, says what was found and what is wanted."""
    value = written.value
    if isinstance(value, str):
        value = expand(value, environ, read_secret, written.origin)
    try:
        result = _READERS[option.metadata["kind"]](value)
    except ValueError as error:
        raise ConfigurationError(f"{show_raw(written.value)} is not {error}") from None
    _check_bounds(option, result, show_raw(written.value))
    return result


def show(option: Field[Any], value: Any) -> str:
    """A resolved value as it would be written in TOML; passwords of URLs are masked."""
    kind = option.metadata["kind"]
    if value is None:
        return '""'
    if kind in _SHOWERS:
        return _SHOWERS[kind](value)
    return quoted(masked(value)) if isinstance(value, str) else str(value)


def show_raw(value: Any) -> str:
    """What somebody wrote, short enough for a sentence; references are not followed, passwords masked."""
    text = quoted(masked(value)) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def quoted(text: str) -> str:
    """As a TOML string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


def suggestion(name: str, known: Iterable[str], more: str = "") -> str:
    """ "did you mean 'processes'?", or the list of what there is; `more` is a sentence that follows."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1) or difflib.get_close_matches(name.lower(), names, 1)
    if near:
        return f"did you mean '{near[0]}'?{more and ' ' + more}"
    return (f"known: {', '.join(names)}" if names else "there is none") + (more and ". " + more)


def absolute(directory: str, path: str) -> str:
    """A path that belongs to a directory; an empty one stays empty."""
    return posixpath.normpath(posixpath.join(directory, path)) if path else ""


def command(value: Any) -> tuple[str, ...]:
    """A list of words that can be executed. ValueError otherwise."""
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value) or not value[0]:
        raise ValueError('a command such as ["php", "my.php"]')
    return tuple(value)


def _check_bounds(option: Field[Any], value: Any, shown: str) -> None:
    choices: Sequence[str] = option.metadata["choices"]
    least: float | None = option.metadata["least"]
    if choices and value not in choices:
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise ConfigurationError(f"{shown} is not {listed}", remedy=suggestion(str(value), choices) if len(choices) > 2 else "")
    if least is not None and value is not None and value < least:
        raise ConfigurationError(f"{shown} is too small", remedy=f"the least is {show(option, type(value)(least))}")


def _int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        result = value
    elif isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip().replace("_", "")):
        result = int(value.replace("_", ""))
    else:
        raise ValueError("a whole number such as 4")
    if abs(result) >= 1 << 63:
        raise ValueError("a number that this machine can count to")
    return result


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _BOOLS:
        return _BOOLS[value.strip().lower()]
    raise ValueError("true or false")


def _text(value: Any) -> str:
    if isinstance(value, str) and "\0" not in value and "\n" not in value:
        return value
    raise ValueError("text in quotes, on one line")


def _seconds(value: Any) -> float:
    return float(units.duration(value))


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "int": _int,
    "bool": _bool,
    "text": _text,
    "path": _text,
    "url": _text,
    "duration": _seconds,
    "size": units.size,
    "range": units.duration_range,
}
_SHOWERS: Mapping[str, Callable[[Any], str]] = {
    "duration": lambda value: quoted(units.show_duration(value)),
    "size": lambda value: quoted(units.show_size(value)),
    "range": lambda value: quoted(units.show_range(value)),
    "bool": lambda value: str(value).lower(),
}
