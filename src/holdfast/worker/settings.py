"""The app's own settings: the text that the supervisor keeps, parsed by the ending of the file it came from."""

from __future__ import annotations

import configparser
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.errors import ConfigurationError


def parse(path: str, text: str) -> dict[str, Any]:
    """Sections and values of an INI, TOML, JSON or YAML file. INI names keep their case, and `%` means itself.

    Raises ConfigurationError, with file and line where the format knows it.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in _PARSERS:
        raise ConfigurationError("unknown format of settings", where=path, remedy=f"name it {', '.join(f'*{e}' for e in _PARSERS)}")
    result = _PARSERS[ending](path, text)
    if not isinstance(result, dict):
        raise ConfigurationError("settings are not a table of names and values", where=path)
    return result


def _ini(path: str, text: str) -> Any:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    try:
        parser.read_string(text, source=path)
    except configparser.ParsingError as error:
        # Not in configparser's words, which repeat the line: it may hold a password.
        wrong = getattr(error, "errors", None)
        line = wrong[0][0] if wrong else getattr(error, "lineno", None)
        raise ConfigurationError("neither a [section] nor name = value inside of one", where=_at(path, line)) from None
    except configparser.Error as error:
        raise ConfigurationError(" ".join(error.message.split()), where=_at(path, getattr(error, "lineno", None))) from error
    return {name: dict(parser[name]) for name in parser.sections()}


def _toml(path: str, text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(str(error), where=path) from error


def _json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(error.msg, where=_at(path, error.lineno)) from error


def _yaml(path: str, text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ConfigurationError("YAML settings need PyYAML", where=path, remedy="pip install 'holdfast[yaml]'") from error
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigurationError(getattr(error, "problem", None) or str(error), where=_at(path, mark and mark.line + 1)) from error


def _at(path: str, line: int | None) -> str:
    return f"{path}:{line}" if line else path


_PARSERS: Mapping[str, Callable[[str, str], Any]] = {
    ".ini": _ini,
    ".cfg": _ini,
    ".conf": _ini,
    ".toml": _toml,
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
}
