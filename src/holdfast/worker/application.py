"""Importing the application: a file as the module named by its stem, or a dotted module."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType, ModuleType

from holdfast.errors import AppError
from holdfast.model.declaration import declare, imported_by, jobs_of
from holdfast.model.job import Job
from holdfast.model.spec import Declaration, Work

# Native thread pools of numerical libraries would start at import, and do not survive a fork.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Application:
    """An imported application: its Job classes by name, and which of them run when the configuration names none."""

    classes: Mapping[str, type[Job]]
    declarations: list[Declaration]
    default: list[str]

    def work_of(self, cls: type[Job]) -> Work:
        """Which of its methods is the work."""
        return next(declaration.work for declaration in self.declarations if declaration.cls == cls.__name__)


def load(app: str, directory: str) -> Application:
    """Import the application. What its code raises comes through; AppError and ConfigurationError are ours."""
    for name in _ONE_THREAD:
        os.environ.setdefault(name, "1")
    os.chdir(directory)
    module = _import_file(os.path.join(directory, app)) if app.endswith(".py") else _import_dotted(app, directory)
    own = jobs_of(vars(module), _declared())
    declarations = {cls: declare(cls) for cls in [*own, *imported_by(vars(module))]}
    return Application({cls.__name__: cls for cls in declarations}, list(declarations.values()), [cls.__name__ for cls in own])


def _declared() -> list[type[Job]]:
    """What the application has passed to `Daemon(...)` while it was imported."""
    daemon = getattr(sys.modules.get("holdfast.app"), "Daemon", None)
    return [job for made in getattr(daemon, "declared", ()) for job in made.jobs]


def _import_dotted(name: str, directory: str) -> ModuleType:
    sys.path.insert(0, directory)
    return importlib.import_module(name)


def _import_file(path: str) -> ModuleType:
    stem = os.path.splitext(os.path.basename(path))[0]
    if not os.path.exists(path):
        raise AppError("no such file", where=path)
    if stem in sys.stdlib_module_names or stem in sys.modules:
        raise AppError(f"an app of this name would hide the module {stem!r}", where=path, remedy="name the file otherwise")
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location(stem, path, loader=_SourceLoader(stem, path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    _SourceLoader(stem, path).exec_module(module)
    return module


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Compiles what the file says now.

    A cached .pyc is told from a newer source by the second and the size only: two edits in one second would run the older.
    """

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = compile(self.get_data(path), path, "exec", dont_inherit=True)
        return code
