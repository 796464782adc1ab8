"""One ingress in place of another, without closing a connection: the last part of an upgrade, when the code of the ingress has changed.

The new one is started beside the one that serves, with listeners of its own at the same addresses, into which nobody is let yet. The
workers that are there stay with the old one, as many others are started for the new one. When all of them are active new connections are
led to the new one, and the old one retires: with its workers it serves who is there, until they leave. Until then nothing has changed for
anybody, and everything can be taken back. Never more than two: a third would wait for the first to leave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.model import fleet_events as model
from holdfast.supervisor.agenda import Agenda, Step
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor
    from holdfast.supervisor.reload import Asker

Answer = dict[str, Any]
Waiting = list[tuple["Asker", Answer]]


class IngressChange:
    """One of them, up to where the new one serves. `ended` is told who waited, and why it failed, if it did."""

    def __init__(self, supervisor: Supervisor, waiting: Waiting, ended: Callable[[Waiting, str], None]) -> None:
        self._supervisor = supervisor
        self._waiting = waiting
        self._ended = ended
        self._failure = ""
        self._subscribed: set[str] = set()  # doors of the old one that get what is published
        limit = supervisor.options.start_timeout
        late = lambda: self.refuse(f"it was not ready within start_timeout, {limit:g} s")  # noqa: E731
        steps = [
            Step("leaving publishers", self._leave, lambda: not self._subscribed, lambda: limit, late),
            Step("starting another ingress", supervisor.begin_ingress, self._listens, lambda: limit, late),
            Step("starting its workers", self._part, supervisor.fleet.ready, lambda: limit, late),
            Step("leading new connections to it", self._turn_over, lambda: True),
        ]
        self._agenda = Agenda(steps, self._progress)

    @property
    def askers(self) -> list[Asker]:
        return [asker for asker, _answer in self._waiting]

    @property
    def step(self) -> str:
        return self._agenda.current

    def next_deadline(self) -> float | None:
        return self._agenda.next_deadline()

    def advance(self, now: float) -> None:
        """Do what is due."""
        try:
            if not self._failure:
                self._agenda.advance(now)
        except OSError as error:
            self.refuse(str(error))
        if self._failure:
            self._turn_back()
            self._ended(self._waiting, self._failure)
        elif self._agenda.over():
            self._ended(self._waiting, "")

    def refuse(self, reason: str) -> None:
        """It cannot go on; the one that serves goes on."""
        self._failure = self._failure or reason

    def _progress(self, text: str) -> None:
        for asker in self.askers:
            asker.progress(text)

    def retired(self, door: str) -> None:
        """A door of the old one is closed."""
        self._subscribed.discard(door)

    def old_one_has_gone(self) -> None:
        """It is connected to nobody any more."""
        self._subscribed.clear()

    def _leave(self) -> None:
        """Two that are connected to a publisher would both get what it publishes. What is pushed goes to one of two anyway."""
        supervisor = self._supervisor
        old = supervisor.family.one("ingress")
        assert old is not None
        supervisor.entries.part(old.id)
        for door in supervisor.entries.doors.values():
            if door.listener is None:
                old.channel.send({"do": "retire", "door": door.id})
                if door.address.transport == "sub":
                    self._subscribed.add(door.id)

    def _listens(self) -> bool:
        return self._supervisor.entries.listening >= self._supervisor.entries.doors.keys()

    def _part(self) -> None:
        if self._supervisor.entries.former is None:
            return  # it has died meanwhile, and its workers leave by themselves
        self._supervisor.decide(model.Part(tuple(sorted(self._supervisor.entries.jobs()))))

    def _turn_over(self) -> None:
        supervisor = self._supervisor
        new = supervisor.family.one("ingress")
        assert new is not None
        new.channel.send({"do": "open"})
        supervisor.entries.turn_over()
        former = supervisor.entries.former
        old = supervisor.family.members.get(former.ingress) if former is not None else None
        if old is not None:
            old.channel.send({"do": "retire-all"})
        events.log("ingress.replaced", "who connects meets the new one; the old one serves those who are there")

    def _turn_back(self) -> None:
        supervisor = self._supervisor
        events.log("ingress.kept", self._failure, level="error")
        former = supervisor.entries.former
        if former is None:
            return
        for ingress in supervisor.family.of("ingress"):
            if ingress.id != former.ingress:
                ingress.facts["unwanted"] = True
                ingress.channel.send({"do": "leave"})
        supervisor.entries.turn_back()
        supervisor.decide(model.Join(back=True))
        old = supervisor.family.members.get(former.ingress)
        if old is not None:
            supervisor.entries.introduce(old, [door for door in supervisor.entries.doors.values() if door.listener is None])
            old.channel.send({"do": "open"})
