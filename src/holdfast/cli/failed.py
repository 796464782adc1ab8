"""`failed`: the dead letters of all jobs: list, show, retry, drop."""

from __future__ import annotations

import argparse
import base64
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.cli import output
from holdfast.cli.children import clerk, configured
from holdfast.cli.command import Call, Command
from holdfast.cli.following import ask
from holdfast.cli.preflight import Ground, examine
from holdfast.errors import HoldfastError, NotRunningError, UsageError
from holdfast.model.options import DaemonOptions
from holdfast.model.units import show_size
from holdfast.model.values import suggestion

_ACTIONS = ("list", "show", "retry", "drop")
_TIMEOUT = 10.0
_SHOWN_REASON = 60


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Do what was asked with the letters that were named."""
    action, target, ids = _words([arguments.target, *arguments.words] if arguments.target else list(arguments.words))
    _check_choice(action, ids, arguments)
    ground = examine(Call(target, call.flags, call.environ, call.cwd))
    jobs = _jobs(ground, arguments.job)
    result = clerk(action, ground, jobs=jobs, state_dir=ground.options.state_dir, ids=ids or None)
    return _DOERS[action](result, ids, ground.options, arguments.json)


def _words(words: Sequence[str]) -> tuple[str, str, list[str]]:
    """Action, target, ids. The target stands before the action, or right behind it."""
    rest = list(words)
    target = ""
    if rest and rest[0] not in _ACTIONS:
        target = rest.pop(0)
    if not rest:
        return "list", target, []
    action = rest.pop(0)
    if action not in _ACTIONS:
        raise UsageError(f"unknown action '{action}'", where="failed", remedy=suggestion(action, _ACTIONS))
    if not target and rest and (rest[0].endswith((".py", ".toml")) or os.path.isdir(rest[0])):
        target = rest.pop(0)
    return action, target, rest


def _check_choice(action: str, ids: Sequence[str], arguments: argparse.Namespace) -> None:
    if action == "list" and ids:
        raise UsageError("list takes no IDs", where="failed", remedy="use show ID")
    if action == "show" and len(ids) != 1:
        raise UsageError("show takes one ID", where="failed", remedy="'failed list' shows them")
    if action in ("retry", "drop") and bool(ids) == arguments.all:
        raise UsageError(f"{action} takes IDs, or --all", where="failed", remedy="'failed list' shows the IDs")


def _jobs(ground: Ground, wanted: str | None) -> list[dict[str, Any]]:
    """The jobs whose letters are meant, and where they lie: a store's URL, or the state directory."""
    jobs = configured(ground).jobs
    if wanted is not None and wanted not in jobs:
        raise UsageError(f"there is no job '{wanted}'", where="--job", remedy=suggestion(wanted, jobs))
    chosen = jobs.values() if wanted is None else [jobs[wanted]]
    return [{"name": job.name, "store": "" if job.options.dead_letter == "state_dir" else job.options.store} for job in chosen]


def _list(letters: list[dict[str, Any]], _ids: Sequence[str], _options: DaemonOptions, as_json: bool) -> int:
    if as_json:
        output.say_json(letters)
    elif not letters:
        output.say("no dead letters")
    else:
        rows = [["ID", "JOB", "STATE", "DIED AT", "TRIES", "SIZE", "REASON"], *(_row(letter) for letter in letters)]
        for line in output.columns(rows):
            output.say(line)
    return 0


def _row(letter: Mapping[str, Any]) -> list[str]:
    reason = " ".join(letter["reason"].split())
    short = reason if len(reason) <= _SHOWN_REASON else f"{reason[:_SHOWN_REASON]}…"
    return [letter["id"], letter["job"], letter["state"], _moment(letter), str(letter["attempts"]), show_size(letter["size"]), short]


def _moment(letter: Mapping[str, Any]) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter["died_at"]))


def _show(letter: dict[str, Any] | None, ids: Sequence[str], _options: DaemonOptions, as_json: bool) -> int:
    if letter is None:
        raise HoldfastError(f"there is no dead letter {ids[0]}", remedy="'failed list' shows them")
    if as_json:
        output.say_json(letter)
        return 0
    for key in ("id", "job", "state", "reason", "attempts", "identity", "message_id", "source", "headers"):
        if letter.get(key):
            output.say(f"{key.replace('_', ' ')}: {letter[key]}")
    output.say(f"died at: {_moment(letter)}")
    if letter["trace"]:
        output.say(f"traceback:\n{letter['trace'].rstrip()}")
    body = base64.b64decode(letter["body"])
    output.say(f"body ({len(body)} bytes):\n{body.decode(errors='backslashreplace')}")
    return 0


def _retry(marked: dict[str, int], ids: Sequence[str], options: DaemonOptions, as_json: bool) -> int:
    """Marks are in the store already: a daemon that is told looks at once, another one at its next start."""
    told = [job for job, count in marked.items() if count and _tell(options, job)]
    if as_json:
        output.say_json({"marked": marked, "told": told})
        return 0
    _say_counts(marked, ids, "marked for another try")
    if any(marked.values()) and not told:
        output.say(f"{options.name} does not run: they are tried when it starts")
    return 0


def _tell(options: DaemonOptions, job: str) -> bool:
    try:
        answer = ask(options, {"verb": "retry-letters", "job": job}, _TIMEOUT)
    except (NotRunningError, TimeoutError):
        return False
    if answer is not None and answer["exit"]:
        output.note(f"{job}: {answer.get('error', 'the daemon did not take them')}")
    return answer is not None and not answer["exit"]


def _drop(dropped: dict[str, int], ids: Sequence[str], _options: DaemonOptions, as_json: bool) -> int:
    if as_json:
        output.say_json({"dropped": dropped})
    else:
        _say_counts(dropped, ids, "dropped")
    return 0


def _say_counts(counts: Mapping[str, int], ids: Sequence[str], what: str) -> None:
    for job, count in counts.items():
        if count:
            output.say(f"{job}: {count} {what}")
    missing = len(ids) - sum(counts.values())
    if missing > 0:
        output.note(f"{missing} of the {len(ids)} IDs {'was' if missing == 1 else 'were'} not there, or done already")
    elif not any(counts.values()):
        output.say("there was nothing to do")


_DOERS: Mapping[str, Callable[[Any, Sequence[str], DaemonOptions, bool], int]] = {
    "list": _list,
    "show": _show,
    "retry": _retry,
    "drop": _drop,
}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "holdfast failed [TARGET] [list | show ID | retry ID… | drop ID…] [options]"
    parser.add_argument("words", nargs="*", metavar="ACTION", help="list (default), show ID, retry ID…, drop ID…")
    parser.add_argument("--job", metavar="JOB", help="only letters of this job")
    parser.add_argument("--all", action="store_true", help="retry or drop: every letter")
    parser.add_argument("--json", action="store_true", help="for programs; bodies are Base64")


COMMAND = Command(
    name="failed",
    summary="List, show, retry or drop dead letters.",
    details="Dead letters: messages that were given up. 'retry' asks for another try; doing so twice is harmless.\n\n"
    "exit status: 0 done, 1 no such letter, 2 usage or configuration, 4 no rights, 5 the store was not to be had",
    run=run,
    configure=_configure,
)
