"""How an error of the application is told: one line with its place, and a traceback without our own frames."""

from __future__ import annotations

import os
import traceback

from holdfast.errors import AppError, HoldfastError

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def trace_of(error: BaseException) -> str:
    """The traceback as text, with the frames of Holdfast and of the import machinery left out."""
    if isinstance(error, AppError) and error.trace:
        return error.trace
    if isinstance(error, HoldfastError) and not _user_frames(error):
        cause = error.__cause__
        return trace_of(cause) if cause is not None and cause is not error else ""  # its message says it all
    told = traceback.TracebackException.from_exception(error)
    _trim(told)
    return "".join(told.format())


def reason_of(error: BaseException) -> str:
    """What happened in one line, beginning with file and line where the application's own code is involved."""
    if isinstance(error, HoldfastError):
        return " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = _user_frames(error)
    place = f"{_shown(frames[-1].filename)}:{frames[-1].lineno}: " if frames else ""
    if isinstance(error, SystemExit):
        return f"{place}the application called sys.exit({error.code!r})"
    first = next(iter(str(error).splitlines()), "")
    return f"{place}{type(error).__name__}{': ' if first else ''}{first}"


def _user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_ours(frame.filename)]


def _is_ours(filename: str) -> bool:
    return filename.startswith((_OURS, "<frozen importlib"))


def _shown(filename: str) -> str:
    """Relative to the working directory, which is the application's, where the file is inside it."""
    relative = os.path.relpath(filename)
    return filename if relative.startswith("..") else relative


def _trim(told: traceback.TracebackException) -> None:
    kept = [frame for frame in told.stack if not _is_ours(frame.filename)]
    in_a_file = told.exc_type is not None and issubclass(told.exc_type, SyntaxError)
    if kept or in_a_file:  # else it is our own bug, and the frames are all that tells
        told.stack = traceback.StackSummary.from_list(kept)
    for other in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
        if other is not None:
            _trim(other)
