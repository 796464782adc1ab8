"""What root relies on must not be in the hands of those it runs: checked before anything is started.

As root, interpreter, package and configuration must be out of the service user's reach; and that user must be able to read
the interpreter, the package and the app.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import holdfast
from holdfast.errors import ConfigurationError, NoRightsError
from holdfast.linux.privileges import Identity, as_user
from holdfast.model.inputs import Inputs


def check(inputs: Inputs, app: str, identity: Identity | None) -> None:
    """Raise NoRightsError for what the service user could change, ConfigurationError for what it cannot read. None: not root."""
    if identity is None:
        return
    with as_user(identity):
        for what, path in _needed(inputs, app):
            _must_read(what, path, identity.user)
        if identity.uid != 0:
            for what, path in _relied_on(inputs):
                _must_not_write(what, path, identity.user)


def _package() -> str:
    return os.path.dirname(os.path.abspath(holdfast.__file__))


def _needed(inputs: Inputs, app: str) -> Iterator[tuple[str, str]]:
    yield "the interpreter", sys.executable
    yield "the package", os.path.join(_package(), "process.py")
    yield "the working directory", inputs.directory
    if app.endswith(".py"):
        yield "the app", app


def _relied_on(inputs: Inputs) -> Iterator[tuple[str, str]]:
    """Files, and the folders in which somebody could replace them."""
    for path in dict.fromkeys((sys.executable, os.path.realpath(sys.executable))):
        yield "the interpreter", path
        yield "the interpreter's folder", os.path.dirname(path)
    for folder, _folders, files in os.walk(_package()):
        yield "the package", folder
        yield from (("the package", os.path.join(folder, name)) for name in files if name.endswith(".py"))
    if inputs.toml_path:
        yield "the configuration", inputs.toml_path
        yield "the configuration's folder", os.path.dirname(inputs.toml_path)


def _must_read(what: str, path: str, user: str) -> None:
    mode = os.R_OK | (os.X_OK if os.path.isdir(path) or what == "the interpreter" else 0)
    if os.access(path, mode, effective_ids=True):
        return
    if not os.path.lexists(path) and what == "the app" and os.access(os.path.dirname(path), os.X_OK, effective_ids=True):
        raise ConfigurationError(f"there is no file {path}", where="app", remedy='correct app = "…" under [daemon]')
    raise ConfigurationError(
        f"{user} cannot read {what}, {path}", where="user", remedy=f"give {user} the right to read it and to enter the folders above"
    )


def _must_not_write(what: str, path: str, user: str) -> None:
    if os.path.lexists(path) and os.access(path, os.W_OK, effective_ids=True):
        raise NoRightsError(
            f"{user} can write {what}, {path}, and root would rely on it",
            remedy="let root own it, and take the right to write from the others",
        )
