"""What a guard writes: its lines in the daemon's log, and the lock file by which `stop`, `start` and `status` find it.

Both are opened anew by name with the service user's rights, and neither is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.linux.privileges import Identity, as_user
from holdfast.model import loglines
from holdfast.telemetry.logfiles import LogFile


def _identity(guarding: Mapping[str, Any]) -> Identity | None:
    said = guarding["identity"]
    return Identity(**{**said, "groups": tuple(said["groups"])}) if said else None


@dataclass(frozen=True, slots=True)
class Diary:
    """The daemon's log, where the logger writes too: each line is one append. "-" is standard error."""

    path: str
    form: str
    identity: Identity | None

    @classmethod
    def of(cls, guarding: Mapping[str, Any]) -> Diary:
        """From the guard's boot document."""
        return cls(guarding["log"], guarding["log_format"], _identity(guarding))

    def write(self, event: str, text: str, level: str, fields: Mapping[str, Any] | None = None) -> None:
        """Write one line; what cannot be written is left out: the supervisor matters more."""
        now = time.time()
        moment = loglines.stamp(now)
        line = loglines.Line(now, level, event, "", "guard", text, fields or {})
        data = bytearray(loglines.render(line, moment, self.form))
        with contextlib.suppress(OSError):
            if self.path == "-":
                os.write(2, data)
                return
            file = LogFile(self.path.replace("{date}", loglines.date(moment)))
            with as_user(self.identity):
                file.write(data)
            file.close()


class Mark:
    """`NAME.guard` in the run directory, locked while the guard has a daemon to watch. Never unlinked, as every lock."""

    def __init__(self, path: str, app: str, identity: Identity | None) -> None:
        self._path, self._app, self._identity = path, app, identity
        self._fd = -1

    @classmethod
    def of(cls, guarding: Mapping[str, Any]) -> Mark:
        """From the guard's boot document."""
        return cls(os.path.join(guarding["run_dir"], f"{guarding['name']}.guard"), guarding["app"], _identity(guarding))

    def take(self) -> None:
        """Lock it, unless that is done or another guard has it; a later call tries again."""
        if self._fd >= 0:
            return
        with contextlib.suppress(OSError), as_user(self._identity):
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(fd)
                raise
            self._fd = fd

    def note(self, text: str) -> None:
        """Say in it who watches, and what is the matter; empty when nothing is."""
        if self._fd < 0:
            return
        data = json.dumps({"pid": os.getpid(), "app": self._app, "note": text}).encode()
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
