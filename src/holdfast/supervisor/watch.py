"""Looking after workers by their boards: whose loop does not turn any more, whose time has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.linux import process
from holdfast.model import fleet_events as model
from holdfast.model.life import Life
from holdfast.supervisor import view
from holdfast.supervisor.family import Child
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor

HEARTBEATS_MISSED = 3


class Watch:
    """Looks once in a heartbeat; `next_look` is when, in monotonic seconds. Silence counts from the last look that came late."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.next_look = float("inf")
        self._looked_at = 0.0
        self._late_at = 0.0

    def begin(self, now: float) -> None:
        """There are workers from here on."""
        self._looked_at, self.next_look = now, now + self._beat

    def sooner(self, now: float) -> None:
        """Heartbeats may have become shorter."""
        self.next_look = min(self.next_look, now + self._beat)

    def end(self) -> None:
        """Nobody is judged any more."""
        self.next_look = float("inf")

    def state(self) -> tuple[float, float]:
        """When it looks next, and when it has looked, for the next program."""
        return self.next_look, self._looked_at

    def restore(self, state: tuple[float, float]) -> None:
        """Go on looking."""
        self.next_look, self._looked_at = state

    def look(self, now: float) -> None:
        """Whose loop has not turned for three heartbeats, or whose handler is over its limit without a word, is hung.

        If this look itself comes late (the machine slept, we were stopped), nobody is judged this time, and everybody has three heartbeats
        from here: they may have stood still as well.
        """
        late = now - self._looked_at > 2 * self._beat
        self._looked_at, self.next_look = now, now + self._beat
        if late:
            self._late_at = now
            return
        for child in self._supervisor.family.of("worker"):
            worker = self._supervisor.fleet.workers.get(child.id)
            if worker is None or worker.life is not Life.ACTIVE or child.id in self._supervisor.effects.kills:
                continue
            reading = view.reading(child, now)
            silent = now - max(reading.heartbeat_ns / view.NS, worker.since, self._late_at)
            if silent > HEARTBEATS_MISSED * self._beat_of(child):
                self._supervisor.decide(model.Hung(child.id, f"its loop has not turned for {silent:.1f} s"))
            else:
                self._look_at_limits(child, now - worker.since)

    def activated(self, worker: str) -> None:
        """What a fresh worker takes is what its growth is measured by."""
        child = self._supervisor.family.members.get(worker)
        if child is None or child.limits is None:
            return
        fresh = child.fresh_rss = process.rss_bytes(child.pid)
        if child.limits.hopeless(fresh):
            text = f"a fresh worker takes {fresh >> 20} MiB already, more than max_rss: it is left alone"
            events.log("worker.large", text, level="warning", job=child.job, worker=worker)

    def _look_at_limits(self, child: Child, age: float) -> None:
        """Whose time has come gets an heir."""
        limits = child.limits
        if limits is None or not (limits.age_s or limits.max_rss):
            return
        rss = process.rss_bytes(child.pid)
        child.fresh_rss = child.fresh_rss or rss
        reason = limits.reason(age, rss, child.fresh_rss)
        if reason:
            self._supervisor.decide(model.Replace(child.id, reason))

    @property
    def _beat(self) -> float:
        return min(
            (job.options.heartbeat for one in self._supervisor.generations.known.values() for job in one.jobs.values()), default=10.0
        )

    def _beat_of(self, child: Child) -> float:
        generation = self._supervisor.generations.of(child)
        return generation.jobs[child.job].options.heartbeat if generation is not None else self._beat
