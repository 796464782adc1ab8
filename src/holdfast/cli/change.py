"""A change of what runs: asked for, followed to its verdict, told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.cli import output
from holdfast.cli.following import ask
from holdfast.errors import AppError, RefusedError
from holdfast.model.options import DaemonOptions

#: Seconds without a word, not of the whole change: a slow worker is given its own limits by the daemon.
_SILENCE = 600.0


def change(
    options: DaemonOptions, message: Mapping[str, Any], done: Callable[[Mapping[str, Any]], str], *, refused: str = "", as_json: bool
) -> int:
    """The exit status of the verdict. `done` says a good one from its result, `refused` follows the reason of another."""
    try:
        answer = ask(options, message, _SILENCE)
    except TimeoutError:
        raise AppError(f"{options.name} has not come to a verdict in {_SILENCE:g} s", remedy="see 'status' and the log") from None
    if answer is None:
        raise AppError(f"{options.name} ended before it could tell the verdict", remedy="see 'status' and the log")
    status, result = int(answer["exit"]), answer.get("result", {})
    if as_json:
        output.say_json({key: value for key, value in answer.items() if key != "result"} | result)
    elif status:
        error = RefusedError(f"{answer.get('error', 'refused')}{refused}")
        output.complain(AppError(str(error), trace=str(answer.get("trace", ""))))
    else:
        output.say("\n  ".join([done(result), *result["changes"]]))
    return status
