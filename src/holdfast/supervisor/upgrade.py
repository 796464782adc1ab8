"""An upgrade: the supervisor's program is replaced by the one that is installed now, in the same process, by exec; a reload follows.

First the new program is looked at: it is run as a child that gets a copy of the state and no other descriptor, reads it, loads all that
it is made of, and touches nothing. Only one that comes to a good end is executed. Until then nothing has changed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError, RefusedError
from holdfast.linux.channel import to_memfd
from holdfast.linux.process import Exit
from holdfast.supervisor import trust
from holdfast.supervisor.family import Child
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor
    from holdfast.supervisor.reload import Asker

Answer = dict[str, Any]
CHECK_LIMIT = 60.0
_MOST_TEXT = 16384


class Upgrade:
    """One of them, up to the exec."""

    def __init__(self, supervisor: Supervisor, askers: list[Asker], ended: Callable[[list[Asker], Answer], None], now: float) -> None:
        self._supervisor = supervisor
        self.askers = askers
        self._ended = ended
        self.step = "checking the new program"
        self._deadline: float | None = now + CHECK_LIMIT
        self._checker = ""
        self._said = -1
        self._fit = False

    def next_deadline(self) -> float | None:
        return self._deadline

    def advance(self, now: float) -> None:
        """Begin; when the check has ended well, go on as the new program, which does not return."""
        try:
            if not self._checker:
                self._check(now)
            elif self._fit and not self._supervisor.stacks.busy:  # those who ask for stacks are answered soon
                self._fit = False
                self._supervisor.succession.execute(self._supervisor)
            elif not self._fit and self._deadline is not None and now >= self._deadline:
                self._deadline = None
                self._supervisor.family.members[self._checker].kill(signal.SIGKILL)
        except HoldfastError as error:
            self._refuse(str(error))
        except OSError as error:
            self._refuse(f"the new program cannot be executed: {error}")

    def checked(self, child: Child, how: Exit) -> None:
        """The check is over."""
        text = os.pread(self._said, _MOST_TEXT, 0).decode(errors="replace")
        os.close(self._said)
        self._fit = "fit" in child.facts and how == Exit(child.pid)
        if not self._fit:
            lines = text.strip().splitlines()
            why = lines[-1] if lines else str(how) if self._deadline is not None else f"it took longer than {CHECK_LIMIT:g} s"
            self._refuse(f"the new program is not fit: {why}", text)

    def _check(self, now: float) -> None:
        for asker in self.askers:
            asker.progress(self.step)
        supervisor = self._supervisor
        trust.check(supervisor.current.inputs, supervisor.options.app, supervisor.ground.identity)
        state = to_memfd("state", supervisor.succession.envelope(supervisor).to_bytes())
        self._said = os.memfd_create("said", os.MFD_CLOEXEC)
        try:
            launch = supervisor.succession.checker(supervisor.ground, state, self._said)
            self._checker = supervisor.family.execute(supervisor.name("check"), launch, now).id
        finally:
            os.close(state)

    def _refuse(self, reason: str, trace: str = "") -> None:
        error = RefusedError(reason, remedy="the old one goes on")
        events.log("upgrade.refused", reason, level="error", trace=trace)
        self._ended(self.askers, {"exit": 1, "error": str(error), **({"trace": trace} if trace else {})})
