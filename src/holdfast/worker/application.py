"""Importing the application: a file as the module named by its stem, or a dotted module."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from holdfast.errors import AppError
from holdfast.model.declaration import declare, imported_by, jobs_of
from holdfast.model.job import Job
from holdfast.model.spec import Declaration, Work
from holdfast.telemetry import events
from holdfast.worker.tree import SHARED, Tree, read_tree
from holdfast.worker.tree_imports import TreeLoader, install

# Native thread pools of numerical libraries would start at import, and do not survive a fork.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Application:
    """An imported application: its Job classes by name, and which of them run when the configuration names none."""

    classes: Mapping[str, type[Job]]
    declarations: list[Declaration]
    default: list[str]
    digest: str  # of its code

    def work_of(self, cls: type[Job]) -> Work:
        """Which of its methods is the work."""
        return next(declaration.work for declaration in self.declarations if declaration.cls == cls.__name__)


def load(app: str, directory: str) -> Application:
    """Import the application. What its code raises comes through; AppError and ConfigurationError are ours."""
    for name in _ONE_THREAD:
        os.environ.setdefault(name, "1")
    os.chdir(directory)
    trees: list[Tree] = []
    module = _import_file(os.path.join(directory, app), trees) if app.endswith(".py") else _import_dotted(app, directory, trees)
    digest = hashlib.sha256("".join(tree.digest() for tree in trees).encode()).hexdigest()
    own = jobs_of(vars(module), _declared())
    declarations = {cls: declare(cls) for cls in [*own, *imported_by(vars(module))]}
    return Application({cls.__name__: cls for cls in declarations}, list(declarations.values()), [cls.__name__ for cls in own], digest)


def _declared() -> list[type[Job]]:
    """What the application has passed to `Daemon(...)` while it was imported."""
    daemon = getattr(sys.modules.get("holdfast.app"), "Daemon", None)
    return [job for made in getattr(daemon, "declared", ()) for job in made.jobs]


def _import_dotted(name: str, directory: str, trees: list[Tree]) -> ModuleType:
    sys.path.insert(0, directory)
    package = name.partition(".")[0]
    spec = importlib.util.find_spec(package)
    for place in spec.submodule_search_locations or () if spec else ():
        parent = os.path.dirname(os.path.abspath(place))
        if os.path.basename(parent) not in SHARED:
            _freeze(parent, trees)
            continue
        # Among other people's packages only this one is the application's.
        tree = _freeze(place, trees)
        initial = os.path.join(place, "__init__.py")
        if initial in tree.files:
            _execute(package, initial, tree)
    if spec and not spec.submodule_search_locations and spec.origin and spec.has_location:
        _freeze(os.path.dirname(os.path.abspath(spec.origin)), trees)
    return importlib.import_module(name)


def _import_file(path: str, trees: list[Tree]) -> ModuleType:
    stem = os.path.splitext(os.path.basename(path))[0]
    if not os.path.exists(path):
        raise AppError("no such file", where=path)
    if stem in sys.stdlib_module_names or stem in sys.modules:
        raise AppError(f"an app of this name would hide the module {stem!r}", where=path, remedy="name the file otherwise")
    folder = os.path.dirname(os.path.abspath(path))
    sys.path.insert(0, folder)
    return _execute(stem, path, _freeze(folder, trees))


def _execute(name: str, path: str, tree: Tree) -> ModuleType:
    """Make the module of this file."""
    loader = TreeLoader(name, path, tree)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def _freeze(root: str, trees: list[Tree]) -> Tree:
    """Keep what is below this folder in memory, among `trees`, and import it from there."""
    tree = read_tree(root)
    trees.append(tree)
    install(tree)
    if tree.limit:
        events.log(
            "snapshot.incomplete",
            f"{tree.root} holds {tree.limit}: what is imported from deeper folders later may be newer than this generation; "
            "keep the application in a folder of its own",
            level="warning",
            files=len(tree.files),
        )
    return tree
