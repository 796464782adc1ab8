"""Dead letters as files, for jobs without a store: STATE_DIR/dead/JOB/ID.letter, one line of JSON and then the body as it was.

A letter is whole or not there (written aside, synced, renamed). Asking for another try renames ID.letter to ID.retry.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import uuid
from collections.abc import Sequence

from holdfast.stores.base import DeadLetter

_STATES = {"letter": "dead", "retry": "retry"}


class LetterFiles:
    """The letters of all jobs of one daemon; see `holdfast.stores.base.Letters`."""

    def __init__(self, state_dir: str) -> None:
        self._folder = os.path.join(state_dir, "dead")

    def bury(self, letter: DeadLetter) -> None:
        """Write a letter, safely on the disk when this returns; gives it an id when it has none."""
        folder = os.path.join(self._folder, letter.job)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        letter.id = letter.id or uuid.uuid4().hex[:16]
        letter.size, letter.state = len(letter.body), "dead"
        head = {field.name: getattr(letter, field.name) for field in dataclasses.fields(letter) if field.name not in {"body", "state"}}
        head["headers"] = dict(letter.headers)
        head["identity"] = None if letter.identity is None else base64.b64encode(letter.identity).decode()
        path = os.path.join(folder, f"{letter.id}.letter")
        with open(f"{path}.new", "wb") as file:
            file.write(json.dumps(head, default=repr).encode() + b"\n" + letter.body)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{path}.new", path)
        _sync(folder)

    def unbury(self, letter: DeadLetter) -> bool:
        """Take a marked letter away; False when it is not there any more."""
        return self._remove(os.path.join(self._folder, letter.job, f"{letter.id}.retry"))

    def all(self, job: str | None = None) -> list[DeadLetter]:
        """Every letter, without bodies, in the order of their death."""
        return sorted((_read(path, body=False) for path in self._paths(job)), key=lambda letter: (letter.died_at, letter.id))

    def show(self, letter_id: str) -> DeadLetter | None:
        """One letter with its body."""
        return next((_read(path, body=True) for path in self._paths(None) if _id(path) == letter_id), None)

    def mark(self, letter_ids: Sequence[str] | None, job: str | None = None) -> int:
        """Ask for another try; returns how many were newly marked."""
        chosen = [path for path in self._paths(job) if path.endswith(".letter") and (letter_ids is None or _id(path) in letter_ids)]
        for path in chosen:
            os.rename(path, f"{path.removesuffix('.letter')}.retry")
        return len(chosen)

    def drop(self, letter_ids: Sequence[str] | None, job: str | None = None) -> int:
        """Remove letters; returns how many there were."""
        return sum(self._remove(path) for path in self._paths(job) if letter_ids is None or _id(path) in letter_ids)

    def marked(self, job: str, most: int) -> list[DeadLetter]:
        """Letters, with body, that wait for another try."""
        return [_read(path, body=True) for path in self._paths(job) if path.endswith(".retry")][:most]

    def _paths(self, job: str | None) -> list[str]:
        try:
            folders = [job] if job is not None else sorted(os.listdir(self._folder))
        except FileNotFoundError:
            return []
        found: list[str] = []
        for folder in (os.path.join(self._folder, name) for name in folders):
            if os.path.isdir(folder):
                found += [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.rpartition(".")[2] in _STATES]
        return found

    @staticmethod
    def _remove(path: str) -> bool:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        return True


def _read(path: str, *, body: bool) -> DeadLetter:
    with open(path, "rb") as file:
        head = json.loads(file.readline())
        data = file.read() if body else b""
    identity = head.pop("identity")
    state = _STATES[path.rpartition(".")[2]]
    return DeadLetter(**head, body=data, state=state, identity=None if identity is None else base64.b64decode(identity))


def _id(path: str) -> str:
    return os.path.basename(path).rpartition(".")[0]


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
