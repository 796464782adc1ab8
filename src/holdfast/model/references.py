"""References to what must not stand in a file: `${NAME}` of the environment, `file:/path` and `${file:/path}` of a file.

`$${` is a plain `${`. What a reference stood for is never shown: only the reference is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from holdfast.errors import ConfigurationError

#: (path, origin) -> text of a file that holds a secret. The origin decides as whom it is read.
ReadSecret = Callable[[str, str], str]

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<inside>[^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FILE = "file:"


def has_reference(text: str) -> bool:
    """Whether something else than the text itself is meant."""
    return text.startswith(_FILE) or any(found[0] != "$${" for found in _REFERENCE.finditer(text))


def expand(text: str, environ: Mapping[str, str], read_secret: ReadSecret, origin: str) -> str:
    """The text with its references replaced. ConfigurationError, without a place, when one leads nowhere."""
    if text.startswith(_FILE):
        return _content(text.removeprefix("file:"), read_secret, origin)

    def replace(found: re.Match[str]) -> str:
        if found[0] == "$${":
            return "${"
        inside = found["inside"]
        if inside is not None and inside.startswith(_FILE):
            return _content(inside.removeprefix("file:"), read_secret, origin)
        if inside is None or not _NAME.fullmatch(inside):
            raise ConfigurationError(
                f"'{text[found.start() : found.start() + 20]}' is not a reference",
                remedy="write ${NAME} or ${file:/path}, and $${ for a plain ${",
            )
        return _variable(inside, environ)

    return _REFERENCE.sub(replace, text)


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ConfigurationError(f"the environment variable {name} is not set", remedy=f"set {name} where the daemon is started")
    return environ[name]


def _content(path: str, read_secret: ReadSecret, origin: str) -> str:
    if not path.startswith("/"):
        raise ConfigurationError(f"file:{path} is a relative path", remedy="write file:/ and the whole path")
    return read_secret(path, origin).rstrip("\r\n")
