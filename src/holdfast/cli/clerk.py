"""The clerk: a process that a command starts for what it must not do itself; opens stores and settings as the service user.

`{"say": "done"}` + [memfd with the result as JSON], or `{"say": "failed", "kind", "reason", "where", "remedy"}` + [memfd with a traceback].
"""

from __future__ import annotations

import argparse
import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from holdfast.errors import ConfigurationError, HoldfastError
from holdfast.linux.channel import Channel, from_memfd, to_memfd
from holdfast.stores.base import DeadLetter, Letters
from holdfast.worker.saying import say
from holdfast.worker.trace import reason_of, trace_of

_TIMEOUT = 10.0


def main(arguments: list[str]) -> int:
    """Do one task."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--boot", type=int, required=True)
    given = parser.parse_args(arguments)
    channel = Channel.from_fd(given.channel)
    order = json.loads(from_memfd(given.boot))
    try:
        os.chdir(order["directory"])
        packet, text = {"say": "done"}, json.dumps(TASKS[order["task"]](order))
    except Exception as error:
        packet, text = _told(error), trace_of(error)
    fd = to_memfd("result", text.encode(errors="backslashreplace"))
    say(channel, packet, [fd])
    return 0


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, HoldfastError):
        return {"say": "failed", "kind": type(error).__name__, "reason": error.message, "where": error.where, "remedy": error.remedy}
    return {"say": "failed", "kind": "UnavailableError", "reason": reason_of(error)}


def _findings(order: Mapping[str, Any]) -> list[str]:
    """What stores are to be warned of, each with its job; ConfigurationError where a driver is missing."""
    from holdfast.stores import open_store

    found: list[str] = []
    for job in order["jobs"]:
        if job["broker"] and find_spec("pika") is None:
            raise ConfigurationError(
                "amqp:// needs pika, which is not installed", where=f"job {job['name']}", remedy="pip install 'holdfast[rabbitmq]'"
            )
        if not job["store"]:
            continue
        store = open_store(job["store"], job["name"], threads=job["threads"], timeout=_TIMEOUT)
        try:
            found += [f"{job['name']}: {finding}" for finding in store.findings(job["connections"])]
        finally:
            store.close()
    return found


def _settings(order: Mapping[str, Any]) -> None:
    """Whether the app's own settings can be read."""
    from holdfast.worker import settings

    path = order["path"]
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ConfigurationError(f"the settings {path} cannot be read: {error.strerror}", where="settings") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the settings {path} are not UTF-8", where="settings") from None
    settings.parse(path, text)


def _list(order: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_plain(letter) for job, letters in _open(order) for letter in letters.all(job)]


def _show(order: Mapping[str, Any]) -> dict[str, Any] | None:
    for job, letters in _open(order):
        letter = letters.show(order["ids"][0])
        if letter is not None and letter.job == job:
            return _plain(letter) | {"body": base64.b64encode(letter.body).decode()}
    return None


def _retry(order: Mapping[str, Any]) -> dict[str, int]:
    return {job: letters.mark(order["ids"], job) for job, letters in _open(order)}


def _drop(order: Mapping[str, Any]) -> dict[str, int]:
    return {job: letters.drop(order["ids"], job) for job, letters in _open(order)}


def _open(order: Mapping[str, Any]) -> Iterator[tuple[str, Letters]]:
    """Each job with its dead letters; jobs whose store has none yet are left out."""
    from holdfast.stores import open_store
    from holdfast.stores.letter_files import LetterFiles

    for job in order["jobs"]:
        if not job["store"]:
            yield job["name"], LetterFiles(order["state_dir"])
            continue
        if not _is_there(job["store"]):
            continue
        store = open_store(job["store"], job["name"], threads=1, timeout=_TIMEOUT)
        try:
            letters = store.letters()
            if _has_table(letters):
                yield job["name"], letters
        finally:
            store.close()


def _is_there(url: str) -> bool:
    """Opening an SQLite file that is not there would make an empty one."""
    from holdfast.model.urls import parse_store

    address = parse_store(url)
    return address.server or os.path.exists(address.path)


def _has_table(letters: Letters) -> bool:
    try:
        letters.marked("", 0)
    except Exception as error:
        # Each database says "no such table" in words of its own, but all name the table.
        if "holdfast_dead" in str(error):
            return False
        raise
    return True


def _plain(letter: DeadLetter) -> dict[str, Any]:
    facts = asdict(letter)
    del facts["body"]
    identity = facts["identity"]
    return {**facts, "headers": dict(letter.headers), "identity": None if identity is None else _readable(identity)}


def _readable(data: Iterable[int]) -> str:
    return bytes(data).decode(errors="backslashreplace")


TASKS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "findings": _findings,
    "settings": _settings,
    "list": _list,
    "show": _show,
    "retry": _retry,
    "drop": _drop,
}
