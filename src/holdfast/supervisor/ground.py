"""What the supervisor stands on, fixed before its first child: options, identity, instance, environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.errors import ConfigurationError
from holdfast.linux.privileges import Identity, as_user
from holdfast.model.options import DaemonOptions
from holdfast.supervisor.family import environment
from holdfast.supervisor.instance import Instance
from holdfast.supervisor.offspring import STANDARD_LIBRARY_ONLY, Launch


@dataclass(frozen=True, slots=True)
class Ground:
    """Does not change while the daemon lives, but for the options that a reload may change."""

    options: DaemonOptions
    identity: Identity | None
    instance: Instance
    environ: Mapping[str, str]
    foreground: bool
    version: str
    pid: int
    terminal: int  # where "-" as log goes
    guard: int = 0  # PID of the guard that started us

    def guarding(self) -> dict[str, Any]:
        """What `status` says of the guard: only one that is still our parent would start us again."""
        guarded = bool(self.guard) and os.getppid() == self.guard
        return {"guarded": guarded, **({"guard_pid": self.guard} if guarded else {})}

    def launch(
        self,
        kind: str,
        boot: Mapping[str, Any],
        directory: str,
        *,
        fds: Mapping[str, int] | None = None,
        log_fd: int = -1,
        options: DaemonOptions | None = None,
    ) -> Launch:
        """How a process of ours is started; its log pipe is filled in later. `options`: of a generation that does not serve yet."""
        return Launch(
            kind=kind,
            boot=boot,
            directory=directory,
            umask=int((options or self.options).umask, 8),
            environ=environment(self.environ, self.instance.mark()),
            identity=self.identity,
            log_fd=log_fd,
            flags=STANDARD_LIBRARY_ONLY if kind in ("logger", "check") else (),
            fds=fds or {},
        )


def read_settings(options: DaemonOptions, identity: Identity | None) -> str | None:
    """The app's own settings file as text, read as the service user; None when there is none configured."""
    if not options.settings:
        return None
    try:
        with as_user(identity), open(options.settings, encoding="utf-8") as file:
            return file.read(1 << 24)
    except (OSError, UnicodeDecodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"cannot read {options.settings}: {text}", where="settings", remedy="make the file readable") from error


def become_reaper() -> None:
    """Grandchildren whose parents die come to us, so that none is left behind."""
    from holdfast.linux.process import PR_SET_CHILD_SUBREAPER, prctl

    prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")
