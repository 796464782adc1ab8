"""What workers will need, imported and used once before they are forked: a worker imports nothing of Holdfast and its drivers after its
fork, whatever is installed meanwhile, and it is ready sooner.

Only what the configuration asks for. SQLAlchemy and the drivers take three times as long as all the rest, and are memory that every worker
has a share in.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterable

from holdfast.worker.rehearsal import rehearse

_STORES = {"sqlite": "holdfast.stores.sqlite", "mysql": "holdfast.stores.mysql", "postgresql": "holdfast.stores.postgresql"}
_BROKER = ("holdfast.sources.amqp", "holdfast.sources.amqp_sending", "holdfast.worker.relay", "holdfast.worker.ordered")
_YAML = (".yaml", ".yml")
_REHEARSALS = 9  # of 2 ms each, 10 with a store; CPython 3.11 rewrites a function's code when it is called for the eighth time


def preload(settings_path: str) -> None:
    """What every worker needs."""
    import holdfast.model.breaker
    import holdfast.stores.letter_files
    import holdfast.worker.engine  # noqa: F401

    if settings_path.lower().endswith(_YAML):
        _import("yaml")


def use(schemes: Iterable[str]) -> None:
    """What stores and sources with these schemes need. What is not installed is left out: opening it says which package it is."""
    wanted = set(schemes)
    modules = [module for scheme, module in _STORES.items() if scheme in wanted]
    for module in (*modules, *(_BROKER if wanted & {"amqp", "amqps"} else ())):
        _import(module)
    if wanted & _STORES.keys():
        _warm_up_store()
    if "sqlalchemy" in sys.modules:  # an application that has imported it is going to use it
        _warm_up_core()
    rehearse(_REHEARSALS, "sqlite://" if wanted & _STORES.keys() else "")


def _import(module: str) -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module(module)


def _warm_up_store() -> None:
    """The first connection of every worker takes a third less."""
    from holdfast.stores.sqlite import warm_up

    warm_up()


def _warm_up_core() -> None:
    from holdfast.stores.core import warm_up

    with contextlib.suppress(Exception):  # Python without SQLite, say: whoever uses it will say so
        warm_up()
