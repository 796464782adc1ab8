"""Which code a process runs: a digest over the files it is made from, to be compared with those that are on disk now.

The ingress computes it of itself at its start, the supervisor at an upgrade, each with the same function and the standard library
only. When they agree a new ingress would run what the old one runs, and there is no reason to replace it.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.util import source_hash

from holdfast.model.imports import imported

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_ENTRY = "holdfast.process"
_VERSION_LINE = re.compile(rb"^__version__ = .*$", re.MULTILINE)

#: What the ingress begins with, and what it is made from beside our own code.
INGRESS = ("holdfast.ingress.main",)
INGRESS_LIBRARIES = ("pyzmq", "msgspec")


def ingress_digest() -> str:
    """The digest of an ingress that is started now by this interpreter and this installation of holdfast."""
    return digest(PACKAGE, INGRESS, INGRESS_LIBRARIES, places())


def digest(package: str, roots: Sequence[str], libraries: Sequence[str], searched: Sequence[str]) -> str:
    """Hexadecimal, over Python's version, the modules of `package` that the roots import, and the libraries as installed.

    By the hash that Python tells changed sources by: hashlib would load OpenSSL.
    The package's own version number does not count: a new version may well have the same code here.
    A library is its RECORD, which holds a hash of each of its files. One that is in none of the places counts as absent; so does
    a file that cannot be read. OSError and SyntaxError never come out: broken code is another code.
    """
    sources = {name: _source(package, name) for name in modules(package, roots)}
    records = {library: _record(library, searched) for library in libraries}
    parts = [f"{name} {source_hash(content).hex()}" for name, content in sorted((sources | records).items())]
    return source_hash("\n".join([sys.version, *parts]).encode()).hex()


def modules(package: str, roots: Sequence[str]) -> set[str]:
    """The roots, the entry of every process, and all that they import of this package, at first or later."""
    top = os.path.basename(package)
    found: set[str] = set()
    left = {top, _ENTRY, *roots}
    while left:
        name = left.pop()
        if _path(package, name) is None:
            continue
        found.add(name)
        left |= {module for module in _imported(_source(package, name)) if module.partition(".")[0] == top} - found
        left |= set(_parents(name)) - found
    return found


def _imported(source: bytes) -> set[str]:
    try:
        return imported(source.decode())
    except (SyntaxError, ValueError):
        return set()


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _path(package: str, name: str) -> str | None:
    base = os.path.join(os.path.dirname(package), *name.split("."))
    return next((path for path in (base + ".py", os.path.join(base, "__init__.py")) if os.path.isfile(path)), None)


def _source(package: str, name: str) -> bytes:
    path = _path(package, name)
    content = _content(path) if path is not None else b""
    return _VERSION_LINE.sub(b"", content) if "." not in name else content


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _record(library: str, searched: Sequence[str]) -> bytes:
    """The first that is found, as for an import; its path tells the version too."""
    for place in searched:
        for record in sorted(glob.glob(os.path.join(glob.escape(place), f"{library}-*.dist-info", "RECORD"))):
            return os.path.basename(os.path.dirname(record)).encode() + b"\0" + _content(record)
    return b""


def places() -> list[str]:
    """Where installed libraries are: beside our package, then below the interpreter (which is a venv's) and the one it was made from.

    Told from the path of the interpreter, and not from sys.path, sys.prefix or `site`, which under `-S` know of no venv.
    """
    above = os.path.dirname(os.path.dirname(os.path.abspath(sys.executable)))
    return [os.path.dirname(PACKAGE), *(os.path.join(prefix, folder) for prefix in (above, sys.base_prefix) for folder in _FOLDERS)]


_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
#: As pip does it, as Fedora does it, as Debian does it.
_FOLDERS = (
    f"lib/{_VERSION}/site-packages",
    f"lib64/{_VERSION}/site-packages",
    f"local/lib/{_VERSION}/dist-packages",
    "lib/python3/dist-packages",
)
