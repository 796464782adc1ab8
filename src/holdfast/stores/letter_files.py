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
        letter.state = "dead"
        self._write(letter)

    def _write(self, letter: DeadLetter) -> None:
        folder = os.path.join(self._folder, letter.job)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        letter.id = letter.id or uuid.uuid4().hex[:16]
        letter.size = len(letter.body)
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
        """Take a letter away whose attempt this is; False when it is not there any more, or somebody else's."""
        return self._is(letter, letter.attempts + 1) and self._remove(self._path(letter, "letter"))

    def attempt(self, letter: DeadLetter) -> bool:
        """A marked letter is about to be tried; see `holdfast.stores.base.Letters.attempt`. Only one process gets the mark."""
        try:
            os.rename(self._path(letter, "retry"), self._path(letter, "letter"))
        except FileNotFoundError:
            return False
        self._write(letter.begun())
        return True

    def put_back(self, letter: DeadLetter) -> None:
        """Undo `attempt`; nothing when the letter is gone, or somebody else's by now."""
        if self._is(letter, letter.attempts + 1):
            self._write(letter)
            os.rename(self._path(letter, "letter"), self._path(letter, "retry"))

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

    def _path(self, letter: DeadLetter, kind: str) -> str:
        return os.path.join(self._folder, letter.job, f"{letter.id}.{kind}")

    def _is(self, letter: DeadLetter, attempts: int) -> bool:
        try:
            return _read(self._path(letter, "letter"), body=False).attempts == attempts
        except FileNotFoundError:
            return False

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
