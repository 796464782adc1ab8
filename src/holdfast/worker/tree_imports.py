"""Importing from a tree instead of from the disk: modules, packages, namespace packages, and the data that packages keep.

It is a hook for entries of the import path: for folders inside of a tree it answers in the place of the usual finder. Everything built upon
the import path (packages' `__path__`, `importlib.reload`, `pkgutil`, `importlib.resources`) therefore finds what was loaded.
No .pyc is ever consulted: it is told from a newer source by the second and the size only, so two edits in one second would run the older.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.resources.abc import Traversable, TraversableResources
from types import CodeType, ModuleType
from typing import Any

from holdfast.worker.tree import Tree

_SUFFIXES = (*importlib.machinery.EXTENSION_SUFFIXES, ".py", ".pyc")


def install(tree: Tree) -> None:
    """From now on, what is imported from inside this tree is imported from its memory."""

    def hook(path: str) -> TreeFinder:
        if tree.locate(path) not in tree.folders:
            raise ImportError("not a folder of this tree", path=path)
        return TreeFinder(tree, path)

    sys.path_hooks.insert(0, hook)
    for path in [path for path in sys.path_importer_cache if tree.locate(path) in tree.folders]:
        del sys.path_importer_cache[path]


class SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles the source, always; from the disk where there is no tree."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = compile(self.get_data(path), path, "exec", dont_inherit=True)
        return code


class TreeLoader(SourceLoader):
    """Loads one module from its tree."""

    def __init__(self, fullname: str, path: str, tree: Tree) -> None:
        super().__init__(fullname, path)
        self._tree = tree

    def get_data(self, path: str | bytes) -> bytes:
        return self._tree.read(os.fsdecode(path))

    def exec_module(self, module: ModuleType) -> None:
        self._show_source(module.__name__)
        super().exec_module(module)

    def get_resource_reader(self, name: str) -> TreeReader | None:  # type: ignore[override]
        """Data of a package, as it was at the load."""
        return TreeReader(self._tree, os.path.dirname(self.path)) if self.is_package(name) else None

    def _show_source(self, fullname: str) -> None:
        """Tracebacks look at the disk first. An entry without a time is what they never check against it."""
        try:
            source = self.get_source(fullname) or ""
        except ImportError:
            return  # it cannot be decoded, which running it will say better
        linecache.cache[self.path] = (len(source), None, source.splitlines(keepends=True), self.path)


class _SourcelessLoader(importlib.machinery.SourcelessFileLoader):
    """An application that comes as .pyc files alone."""

    def __init__(self, fullname: str, path: str, tree: Tree) -> None:
        super().__init__(fullname, path)
        self._tree = tree

    def get_data(self, path: str | bytes) -> bytes:
        return self._tree.read(os.fsdecode(path))


class TreeFinder:
    """Finds modules in one folder, as the usual finder does: packages, then extensions, sources, and bytecode; then namespace packages."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree = tree
        self._path = os.path.abspath(path)
        self._names = frozenset(tree.folders[tree.locate(path)])
        self._on_disk = importlib.machinery.FileFinder(
            path,
            (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
            (SourceLoader, [".py"]),
            (importlib.machinery.SourcelessFileLoader, [".pyc"]),
        )

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """As the import system asks; a spec without loader is a portion of a namespace package."""
        name = fullname.rpartition(".")[2]
        if self._is_outside(name):
            return self._on_disk.find_spec(fullname, target)
        folder = os.path.join(self._path, name)
        inside = self._tree.folders.get(self._tree.locate(folder), ()) if name in self._names else None
        if inside is not None and (spec := self._spec(fullname, folder, "__init__", frozenset(inside), [folder])):
            return spec
        if spec := self._spec(fullname, self._path, name, self._names, None):
            return spec
        if inside is None:
            return None
        spec = ModuleSpec(fullname, None)
        spec.submodule_search_locations = [folder]
        return spec

    def iter_modules(self, prefix: str = "") -> Iterator[tuple[str, bool]]:
        """For `pkgutil`: names of the modules, and whether each is a package."""
        found: dict[str, bool] = {}
        for name in sorted(self._names):
            inside = self._tree.folders.get(self._tree.locate(os.path.join(self._path, name)))
            if inside is not None:
                if any(f"__init__{suffix}" in inside for suffix in _SUFFIXES):
                    found[name] = True
                continue
            suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
            if suffix is not None and "." not in name.removesuffix(suffix):
                found.setdefault(name.removesuffix(suffix), False)
        yield from ((prefix + name, package) for name, package in found.items() if name != "__init__")

    def _is_outside(self, name: str) -> bool:
        """Whether what bears this name was seen, but is not in memory: an extension, or what a limit has left out."""
        outside, here = self._tree.outside, self._tree.locate(self._path)
        folder = os.path.join(here, name)
        if folder in outside:
            return True
        return any(folder + suffix in outside or os.path.join(folder, "__init__" + suffix) in outside for suffix in _SUFFIXES)

    def _spec(self, fullname: str, folder: str, stem: str, names: frozenset[str], search: list[str] | None) -> ModuleSpec | None:
        loaders: tuple[tuple[str, Callable[[str, str, Tree], Any]], ...] = ((".py", TreeLoader), (".pyc", _SourcelessLoader))
        for suffix, loader in loaders:
            if stem + suffix in names:
                path = os.path.join(folder, stem + suffix)
                return importlib.util.spec_from_file_location(
                    fullname, path, loader=loader(fullname, path, self._tree), submodule_search_locations=search
                )
        return None


class TreeReader(TraversableResources):
    """For `importlib.resources`: the data of one package."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._folder = TreePath(tree, folder)

    def files(self) -> Traversable:
        return self._folder


class TreePath(Traversable):
    """A file or folder of the tree. As a path for `open` it is the one on disk, which is outside of what was loaded."""

    def __init__(self, tree: Tree, path: str) -> None:
        self._tree = tree
        self._path = path

    @property
    def name(self) -> str:
        return os.path.basename(self._path)

    def iterdir(self) -> Iterator[TreePath]:
        if not self.is_dir():
            raise NotADirectoryError(self._path)
        return (TreePath(self._tree, os.path.join(self._path, name)) for name in self._tree.folders[self._tree.locate(self._path)])

    def is_dir(self) -> bool:
        return self._tree.locate(self._path) in self._tree.folders

    def is_file(self) -> bool:
        place = self._tree.locate(self._path)
        return place in self._tree.files or (place in self._tree.outside and os.path.isfile(self._path))

    def joinpath(self, *descendants: str | os.PathLike[str]) -> TreePath:
        return TreePath(self._tree, os.path.normpath(os.path.join(self._path, *descendants)))

    def __truediv__(self, child: str | os.PathLike[str]) -> TreePath:
        return self.joinpath(child)

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        """For reading, as text or, with "b", as bytes."""
        data = io.BytesIO(self.read_bytes())
        return data if "b" in mode else io.TextIOWrapper(data, *args, **kwargs)

    def read_bytes(self) -> bytes:
        return self._tree.read(self._path)

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def __fspath__(self) -> str:
        return self._path

    def __str__(self) -> str:
        return self._path
