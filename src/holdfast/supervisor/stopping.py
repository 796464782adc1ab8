"""A stop, step by step: what holds work gives it to the end, then everybody leaves, those who serve others last."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.model import fleet_events as model
from holdfast.supervisor import family as families
from holdfast.supervisor.agenda import Step

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor

GONE = 2.0  # seconds in which a process that has nothing more to do is gone


class Stopping:
    """The steps of a stop that has begun; `finish` is the last."""

    def __init__(self, supervisor: Supervisor, finish: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self._finish = finish

    def steps(self) -> list[Step]:
        """In this order: nobody loses whom it still needs."""
        return [
            Step(
                "draining the ingress",
                self._drain_ingress,
                lambda: "drained" in self._supervisor.told or all("drained" in one.facts for one in self._supervisor.family.of("ingress")),
                self._intake_left,
                lambda: self._supervisor.told.add("drained"),  # nobody waits for it any more
            ),
            Step(
                "draining workers",
                self._drain_workers,
                lambda: self._supervisor.fleet.stopped() and not self._supervisor.family.of("prepare", "check"),
            ),
            Step("ending the ingress", lambda: self._leave("ingress"), self._none("ingress"), lambda: GONE, lambda: self._kill("ingress")),
            Step(
                "ending the zygotes", self._leave_zygotes, self._none("zygote", "twin"), lambda: GONE, lambda: self._kill("zygote", "twin")
            ),
            Step("ending strays", self._end_strays, self._no_strays, lambda: GONE, self._end_strays),
            Step("ending the logger", self._end_logger, self._none("logger"), lambda: GONE, lambda: self._kill("logger")),
            Step("ended", self._finish, lambda: True),
        ]

    def _intake_left(self) -> float:
        assert self._supervisor.stop_at is not None
        left = self._supervisor.stop_at - time.monotonic()
        return left - min(2.0, left / 4)

    def _drain_ingress(self) -> None:
        for ingress in self._supervisor.family.of("ingress"):
            ingress.facts.pop("drained", None)
        self._supervisor.tell_ingress({"do": "drain"})

    def _drain_workers(self) -> None:
        assert self._supervisor.stop_at is not None
        self._kill("prepare", "check")
        self._supervisor.decide(model.Stop(max(0.0, self._supervisor.stop_at - time.monotonic())))

    def _leave(self, *kinds: str) -> None:
        for kind in kinds:
            for child in self._supervisor.family.of(kind):
                child.channel.send({"do": "leave"})

    def _end_logger(self) -> None:
        self._supervisor.ending_logger = True
        self._supervisor.logs.finish()

    def _leave_zygotes(self) -> None:
        for child in list(self._supervisor.family.members.values()):
            if not child.pid:
                self._supervisor.family.unborn(child.id)
        self._leave("zygote", "twin")

    def _none(self, *kinds: str) -> Callable[[], bool]:
        return lambda: not any(self._supervisor.family.of(kind) for kind in kinds)

    def _kill(self, *kinds: str) -> None:
        for kind in kinds:
            for child in self._supervisor.family.of(kind):
                child.kill(signal.SIGKILL)

    def _end_strays(self) -> None:
        families.end(self._supervisor.family.strays())

    def _no_strays(self) -> bool:
        """Those that their death leaves to us are found on the next look."""
        self._supervisor.family.reap()
        left = self._supervisor.family.strays()
        families.end(left)
        return not left
