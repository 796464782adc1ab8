"""Modules of the standard library that others import and hardly ever use: loaded when something is first taken from them.

For processes of ours with one thread that live long and import nothing of the user's: `inspect` alone, which `dataclasses` imports for the
signatures of classes without a docstring, is a megabyte in each of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

HARDLY_USED = ("inspect", "traceback", "ipaddress", "difflib")


def postpone(names: Iterable[str] = HARDLY_USED) -> None:
    """Let these be imported without being loaded. Those that are loaded, or not there, stay so."""
    for name in names:
        if name not in sys.modules and (spec := find_spec(name)) is not None:
            sys.modules[name] = _postponed(spec)


def _postponed(spec: ModuleSpec) -> ModuleType:
    module = module_from_spec(spec)

    def load(name: str) -> Any:
        del vars(module)["__getattr__"]
        assert spec.loader is not None
        spec.loader.exec_module(module)
        return getattr(module, name)

    vars(module)["__getattr__"] = load
    return module
