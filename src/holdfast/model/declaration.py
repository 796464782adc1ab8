"""What a Job class says about itself, and everything that can be wrong with it, told with file and line."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from holdfast.errors import AppError, ConfigurationError
from holdfast.model.job import Job
from holdfast.model.options import JOB_OPTIONS
from holdfast.model.spec import Declaration, Work

WORKS: tuple[Work, ...] = get_args(Work)

# The calls that must fit, with and without `db`: what follows `self`.
_CALLS: dict[Work, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "handle": (("message", "db"), ("message",)),
    "handle_batch": (("messages", "db"), ("messages",)),
    "run": ((), ()),
}
_PLAIN = (str, int, float, bool, list, tuple, type(None))


def jobs_of(namespace: Mapping[str, Any], declared: Iterable[type[Job]] = ()) -> list[type[Job]]:
    """The jobs that run when the configuration names none: concrete Job classes defined in this module, then those `declared` by a Daemon.

    A class without work of its own that others in the module build upon is a base, not a job. Raises AppError when there is no
    job at all; classes that were only imported count as "there is one", since a `[jobs.NAME]` table may name them.
    """
    home = namespace.get("__name__")
    here = [value for value in _classes(namespace) if value.__module__ == home]
    bases = {base for value in here for base in value.__mro__[1:]}
    own = [value for value in here if not inspect.isabstract(value) and (_works(value) or value not in bases)]
    result = list(dict.fromkeys([*own, *declared]))
    if not result and not imported_by(namespace):
        raise AppError(
            "no Job in this file",
            where=str(namespace.get("__file__") or home or ""),
            remedy="define a class that inherits from holdfast.Job and has handle, handle_batch or run",
        )
    return result


def imported_by(namespace: Mapping[str, Any]) -> list[type[Job]]:
    """Job classes with work that the module has from elsewhere; a `[jobs.NAME]` table may name them."""
    home = namespace.get("__name__")
    return [value for value in _classes(namespace) if value.__module__ != home and _works(value) and not inspect.isabstract(value)]


def declare(cls: type[Job]) -> Declaration:
    """What this class declares. Raises ConfigurationError, with file and line, for one that cannot run."""
    file, line = _place(cls)
    where = f"{file}:{line}" if line else file
    _check_constructor(cls, where)
    work = _work_of(cls, where)
    _check_names(cls, where)
    return Declaration(
        cls=cls.__name__,
        work=work,
        options=_options_of(cls, where),
        identity=cls.identity is not Job.identity,
        key=cls.key is not Job.key,
        creates=bool(cls.schema) or cls.prepare.__func__ is not Job.prepare.__func__,  # type: ignore[attr-defined]
        file=file,
        line=line,
        needs_db=_needs_db(cls, work),
    )


def _classes(namespace: Mapping[str, Any]) -> list[type[Job]]:
    found = [value for value in namespace.values() if isinstance(value, type) and issubclass(value, Job) and value is not Job]
    return list(dict.fromkeys(found))


def _works(cls: type[Job]) -> list[Work]:
    return [work for work in WORKS if callable(getattr(cls, work, None))]


def _place(cls: type) -> tuple[str, int]:
    try:
        return inspect.getsourcefile(cls) or "", inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return cls.__module__, 0


def _work_of(cls: type[Job], where: str) -> Work:
    found = _works(cls)
    if not found:
        raise ConfigurationError(
            f"{cls.__name__} has no work", where=where, remedy="give it one of handle(self, message, db), handle_batch and run"
        )
    if len(found) > 1:
        names = " and ".join([", ".join(found[:-1]), found[-1]])
        raise ConfigurationError(f"{cls.__name__} defines both {names}", where=where, remedy="keep one")
    _check_signature(cls, found[0], where)
    return found[0]


def _check_signature(cls: type[Job], work: Work, where: str) -> None:
    function = getattr(cls, work)
    wanted = f"{work}({', '.join(('self', *_CALLS[work][0]))})"
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigurationError(f"{cls.__name__}.{work} is not a plain method", where=where, remedy=f"write it as def {wanted}")
    if not inspect.isfunction(inspect.getattr_static(cls, work)):
        return  # a decorated or built-in callable: only a call can tell
    signature = inspect.signature(function)
    if not any(_fits(signature, ("self", *call)) for call in _CALLS[work]):
        raise ConfigurationError(f"{cls.__name__}.{work}{signature} cannot be called", where=where, remedy=f"write it as def {wanted}")


def _needs_db(cls: type[Job], work: Work) -> bool:
    function = inspect.getattr_static(cls, work)
    return inspect.isfunction(function) and not _fits(inspect.signature(function), ("self", *_CALLS[work][1]))


def _fits(signature: inspect.Signature, values: tuple[str, ...]) -> bool:
    try:
        signature.bind(*values)
    except TypeError:
        return False
    return True


def _check_constructor(cls: type[Job], where: str) -> None:
    if cls.__init__ is object.__init__ or _fits(inspect.signature(cls.__init__), ("self",)):
        return
    raise ConfigurationError(
        f"{cls.__name__}'s constructor wants arguments", where=where, remedy="a Job is built without any; move that to setup()"
    )


def _attributes(cls: type[Job]) -> dict[str, Any]:
    """What the class and its bases below Job set, the nearest first."""
    result: dict[str, Any] = {}
    for base in cls.__mro__:
        if base not in (Job, object):
            result = {**vars(base), **result}
    return result


def _options_of(cls: type[Job], where: str) -> dict[str, Any]:
    result = {name: value for name, value in _attributes(cls).items() if name in JOB_OPTIONS}
    for name, value in result.items():
        if not isinstance(value, _PLAIN):
            raise ConfigurationError(
                f"{cls.__name__}.{name} is a {type(value).__name__}", where=where, remedy=f"write {name} as a text or a number"
            )
    return result


def _check_names(cls: type[Job], where: str) -> None:
    for name, value in _attributes(cls).items():
        if name.startswith("_") or name in JOB_OPTIONS or hasattr(Job, name) or not isinstance(value, _PLAIN):
            continue
        near = difflib.get_close_matches(name.lower(), JOB_OPTIONS, n=1, cutoff=0.86)
        if near:
            raise ConfigurationError(
                f"{cls.__name__} sets {name}, which is not an option; did you mean {near[0]}?",
                where=where,
                remedy=f"name it _{name} if it is your own",
            )
