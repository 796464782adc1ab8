"""The application's files as they were at the load, in memory: what a generation runs, whatever happens to the disk later.

Every file is read once. Python files are read wherever they are below the root; other files (templates, SQL, certificates) where a
package keeps them. Nearest folders come first, so that what a limit leaves out is what lies deepest.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

MOST_FILES = 5_000
MOST_BYTES = 64 << 20
MOST_ENTRIES = 50_000  # files and folders looked at
LARGEST_DATA = 1 << 20
SHARED = ("site-packages", "dist-packages")  # folders of everybody's packages
_CODE = (".py", ".pyc")
_SKIPPED = ("__pycache__", "node_modules", *SHARED)


@dataclass(slots=True)
class Tree:
    """Absolute paths throughout. What is `outside` was seen and not read: its content is what the disk holds when it is asked for."""

    root: str
    files: dict[str, bytes] = field(default_factory=dict)
    folders: dict[str, tuple[str, ...]] = field(default_factory=dict)  # the names in each folder that was read
    outside: set[str] = field(default_factory=set)
    limit: str = ""  # the limit that was reached, in words
    _real: str = ""

    def __post_init__(self) -> None:
        self._real = os.path.realpath(self.root)

    def locate(self, path: str) -> str:
        """The path as this tree spells it, also where it comes by another way through symbolic links to the root."""
        path = os.path.abspath(path)
        if path != self.root and not path.startswith(self.root.rstrip(os.sep) + os.sep) and (path + os.sep).startswith(self._real + os.sep):
            return os.path.normpath(os.path.join(self.root, os.path.relpath(path, self._real)))
        return path

    def read(self, path: str) -> bytes:
        """Bytes of the file at the load; FileNotFoundError when there was none; those of the disk for what is not in here."""
        key = self.locate(path)
        if key in self.files:
            return self.files[key]
        if key not in self.outside and os.path.dirname(key) in self.folders:
            raise FileNotFoundError(f"no such file when the application was loaded: {path}")
        with open(path, "rb") as file:
            return file.read()

    def digest(self) -> str:
        """Of the code in it; what a package keeps beside its code may change while it runs, and does not count."""
        total = hashlib.sha256()
        for path in sorted(path for path in self.files if path.endswith(_CODE)):
            total.update(repr((os.path.relpath(path, self.root), hashlib.sha256(self.files[path]).hexdigest())).encode())
        return total.hexdigest()


def read_tree(root: str) -> Tree:
    """Read what is below the root, up to the limits; `limit` says which of them was reached."""
    tree = Tree(os.path.abspath(root))
    _Reader(tree).read()
    return tree


@dataclass(frozen=True, slots=True)
class _Folder:
    """A folder that is still to be read."""

    path: str
    ancestors: frozenset[tuple[int, int]]  # device and inode, against links that lead upwards
    in_package: bool


class _Reader:
    """Reads one tree, breadth first."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._bytes = 0
        self._entries = 0

    def read(self) -> None:
        queue = deque(self._below([self._tree.root], frozenset(), in_package=False))
        while queue:
            folder = queue.popleft()
            if self._tree.limit:
                self._tree.outside.add(folder.path)
                continue
            queue.extend(self._read_folder(folder))

    def _read_folder(self, folder: _Folder) -> Iterator[_Folder]:
        """Read its files; its folders are for later."""
        folders, files = self._listed(folder.path)
        in_package = folder.in_package or "__init__.py" in files or "__init__.pyc" in files
        kept = [name for name in files if self._take(os.path.join(folder.path, name), data=in_package)]
        below = list(self._below([os.path.join(folder.path, name) for name in folders], folder.ancestors, in_package=in_package))
        self._tree.folders[folder.path] = tuple(kept + [os.path.basename(one.path) for one in below])
        return iter(below)

    def _listed(self, path: str) -> tuple[list[str], list[str]]:
        """Names of the folders and of the regular files in it, those through symbolic links included."""
        folders, files = [], []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    self._entries += 1
                    if _is(entry, folder=True):
                        folders.append(entry.name)
                    elif _is(entry, folder=False):
                        files.append(entry.name)
        except OSError:
            pass  # what cannot be listed cannot be imported by name either
        if self._entries > MOST_ENTRIES:
            self._tree.limit = self._tree.limit or f"more than {MOST_ENTRIES} files and folders"
        return sorted(folders), sorted(files)

    def _take(self, path: str, *, data: bool) -> bool:
        """Read this file if it belongs into the tree; whether it is known to it from now on."""
        code = path.endswith(_CODE)
        extension = path.endswith(".so")
        if not (code or extension or data):
            return False
        if extension or self._tree.limit or not self._fits(path, code=code):
            self._tree.outside.add(path)
            return True
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            self._tree.outside.add(path)  # whoever asks for it gets that error
            return True
        self._tree.files[path] = content
        self._bytes += len(content)
        return True

    def _fits(self, path: str, *, code: bool) -> bool:
        try:
            size = os.stat(path).st_size
        except OSError:
            return False
        if not code and size > LARGEST_DATA:
            return False
        if len(self._tree.files) >= MOST_FILES:
            self._tree.limit = f"more than {MOST_FILES} files"
        elif self._bytes + size > MOST_BYTES:
            self._tree.limit = f"more than {MOST_BYTES >> 20} MiB"
        return not self._tree.limit

    def _below(self, paths: Iterable[str], ancestors: frozenset[tuple[int, int]], *, in_package: bool) -> Iterator[_Folder]:
        """Those of the folders that may hold code of the application."""
        for path in paths:
            try:
                status = os.stat(path)
            except OSError:
                continue
            place = (status.st_dev, status.st_ino)
            if place in ancestors or (ancestors and _is_foreign(path)):
                continue
            yield _Folder(path, ancestors | {place}, in_package)


def _is(entry: os.DirEntry[str], *, folder: bool) -> bool:
    try:
        return entry.is_dir() if folder else stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _is_foreign(path: str) -> bool:
    """Hidden, made by tools, or another interpreter's home."""
    name = os.path.basename(path)
    return (
        name.startswith(".")
        or name in _SKIPPED
        or os.path.exists(os.path.join(path, "pyvenv.cfg"))
        or os.path.realpath(path) in (sys.prefix, sys.base_prefix)
    )
