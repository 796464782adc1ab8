"""`reload --settings`: the app's settings file again, handed to the workers that are there. All take them, or all keep the old."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.errors import ConfigurationError, HoldfastError
from holdfast.linux.channel import to_memfd
from holdfast.model.life import Life
from holdfast.supervisor.family import Child
from holdfast.supervisor.ground import read_settings

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor
    from holdfast.supervisor.reload import Asker

Answer = dict[str, Any]


class SettingsReload:
    """One of them, from reading the file to the last worker's word. A worker that ends meanwhile is not waited for."""

    def __init__(self, supervisor: Supervisor, askers: list[Asker], ended: Callable[[list[Asker], Answer], None], now: float) -> None:
        self._supervisor = supervisor
        self.askers = askers
        self._ended = ended
        self.step = "handing out settings"
        self._text: str | None = None
        self._id = supervisor.next_settings_id()
        self._waiting: set[str] = set()
        self._taken: set[str] = set()
        self._failure: Answer | None = None
        longest = max((job.options.timeout for job in supervisor.current.jobs.values()), default=0.0)
        self._deadline = now + longest + supervisor.options.stop_timeout
        self._begun = False

    def next_deadline(self) -> float | None:
        return self._deadline

    def advance(self, now: float) -> None:
        """Begin; look whether all have answered; give up when it takes too long."""
        try:
            if not self._begun:
                self._begin()
        except HoldfastError as error:
            self._ended(self.askers, {"exit": 1, "error": str(error)})
            return
        members = self._supervisor.family.members
        self._waiting &= members.keys()
        if self._waiting and now >= self._deadline:
            self.failed(members[min(self._waiting)], "it did not take the settings in time", "")
            self._waiting.clear()
        if not self._waiting:
            self._conclude()

    def taken(self, child: Child, number: int) -> None:
        """The worker works by the new settings, or by the old ones again."""
        if number == self._id and child.id in self._waiting:
            self._waiting.discard(child.id)
            if self._failure is None:
                self._taken.add(child.id)

    def failed(self, child: Child, reason: str, trace: str) -> None:
        """The worker keeps the old ones, and so do all the others."""
        self._waiting.discard(child.id)
        if self._failure is not None:
            return
        self._failure = {"exit": 1, "error": f"job {child.job}: {reason}", **({"trace": trace} if trace else {})}
        late = self._taken | self._waiting  # who has not answered takes one after the other, and answers both
        self._taken.clear()
        self._waiting = {name for name in late if self._tell(name, {"do": "restore-settings", "id": self._id})}

    def _begin(self) -> None:
        self._begun = True
        supervisor = self._supervisor
        if not supervisor.options.settings:
            raise ConfigurationError("there is no settings file", where="[daemon]", remedy='set settings = "app.ini"')
        self._text = read_settings(supervisor.options, supervisor.ground.identity)
        for child in supervisor.family.of("worker"):
            worker = supervisor.fleet.workers.get(child.id)
            if worker is not None and worker.life is Life.ACTIVE and hand_out(child, self._id, self._text):
                self._waiting.add(child.id)

    def _tell(self, name: str, packet: dict[str, Any]) -> bool:
        child = self._supervisor.family.members.get(name)
        return child is not None and child.channel.send(packet)

    def _conclude(self) -> None:
        if self._failure is not None:
            self._ended(self.askers, self._failure)
            return
        supervisor = self._supervisor
        changed = self._text != supervisor.current.settings_text
        supervisor.current.settings_text = self._text
        supervisor.current.settings_version += 1
        for name in self._taken:
            self._tell(name, {"do": "keep-settings", "id": self._id})
            if name in supervisor.family.members:
                supervisor.family.members[name].facts["settings"] = supervisor.current.settings_version
        catch_up(supervisor)
        result = {"generation": supervisor.fleet.generation, "pid": supervisor.ground.pid, "changes": ["settings"] if changed else []}
        self._ended(self.askers, {"exit": 0, "result": result})


def hand_out(child: Child, number: int, text: str | None) -> bool:
    """Give a worker these settings; False when it cannot be told."""
    fd = to_memfd("settings", (text or "").encode())
    try:
        return child.channel.send({"do": "reload-settings", "id": number}, [fd])
    finally:
        os.close(fd)


def catch_up(supervisor: Supervisor) -> None:
    """Workers that were born with older settings get those that count now."""
    for child in supervisor.family.of("worker"):
        worker = supervisor.fleet.workers.get(child.id)
        old = child.generation == supervisor.current.number and child.facts.get("settings") != supervisor.current.settings_version
        if old and worker is not None and worker.life is Life.ACTIVE:
            number = supervisor.next_settings_id()
            child.facts["settings"] = supervisor.current.settings_version
            if hand_out(child, number, supervisor.current.settings_text):
                child.channel.send({"do": "keep-settings", "id": number})
