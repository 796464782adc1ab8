"""A fleet with a clock and everything it has ordered, for tables and histories."""

from holdfast.model import fleet_events as f
from holdfast.model.fleet import Fleet
from holdfast.model.life import Life


def plan(slots: int = 2, **options: object) -> f.Plan:
    return f.Plan(slots, **options)  # type: ignore[arg-type]


class World:
    """One job, `Fee`, launched with generation 1 unless told otherwise."""

    def __init__(self, slots: int = 2, *, fleet: Fleet | None = None, launch: bool = True, **options: object) -> None:
        self.fleet = fleet or Fleet()
        self.now = 0.0
        self.effects: list[f.Effect] = []
        if launch:
            self.do(f.Launch(1, {"Fee": plan(slots, **options)}))

    def do(self, event: f.Event, now: float | None = None) -> list[f.Effect]:
        self.now = self.now if now is None else now
        effects = self.fleet.handle(event, self.now)
        self.effects += effects
        return effects

    def roll(self, slots: int = 2, probation: float = 0.0, generation: int = 2, **options: object) -> list[f.Effect]:
        return self.do(f.Roll(generation, {"Fee": plan(slots, **options)}, probation))

    def named(self, *lives: Life) -> list[str]:
        return [name for name, worker in self.fleet.workers.items() if worker.life in lives]

    @property
    def starting(self) -> list[str]:
        return self.named(Life.STARTING)

    def settle(self, most: int = 1000) -> None:
        """Everybody who starts becomes ready, everybody who drains goes, until nothing changes."""
        for _ in range(most):
            starting, draining = self.named(Life.STARTING), self.named(Life.DRAINING)
            removed = [
                e.job for e in self.effects if isinstance(e, f.Removed) and e.job in self.fleet.jobs and self.fleet.jobs[e.job].removed
            ]
            if not starting and not draining and not removed:
                return
            for name in starting:
                self.do(f.Ready(name))
            for name in draining:
                self.do(f.Exited(name, "exit status 0"))
            for job in removed:
                self.do(f.Retire(job))
        raise AssertionError("it does not settle")

    def serving(self, job: str = "Fee") -> dict[int, int]:
        """Slot -> generation of the one who works there."""
        slots = self.fleet.jobs[job].slots
        return {n: s.incumbent.generation for n, s in sorted(slots.items()) if s.incumbent and s.incumbent.life is Life.ACTIVE}

    def at(self, slot: int, job: str = "Fee") -> str:
        """Who works in this slot."""
        incumbent = self.fleet.jobs[job].slots[slot].incumbent
        assert incumbent is not None
        return incumbent.id

    def heir(self, slot: int, job: str = "Fee") -> str:
        heir = self.fleet.jobs[job].slots[slot].heir
        assert heir is not None
        return heir.id

    @property
    def verdicts(self) -> list[f.Effect]:
        return [e for e in self.effects if isinstance(e, f.RolledOut | f.RolledBack)]
