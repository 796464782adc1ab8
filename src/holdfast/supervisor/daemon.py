"""The supervisor at work: events in, decisions of the model, effects out. One thread, standard library only, no user code (G8).

A start and a stop are agendas of named steps. Between them the fleet (`holdfast.model.fleet`) decides about workers, `Reloads` about new
generations, and the few rules here keep the logger, the zygotes with their twins, and the ingress alive.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast.errors import AppError, HoldfastError, UnavailableError
from holdfast.linux.channel import Packet
from holdfast.model import fleet_events as model
from holdfast.model.fleet import Fleet
from holdfast.model.inputs import Inputs
from holdfast.model.job_options import JobConfig
from holdfast.model.life import Life
from holdfast.model.options import DaemonOptions
from holdfast.supervisor import view
from holdfast.supervisor.agenda import Agenda, Step
from holdfast.supervisor.births import Births
from holdfast.supervisor.boards import Totals
from holdfast.supervisor.effects import Effects
from holdfast.supervisor.entries import Entries
from holdfast.supervisor.family import Child, Family
from holdfast.supervisor.generation import Generation
from holdfast.supervisor.generations import Generations
from holdfast.supervisor.ground import Ground
from holdfast.supervisor.hearing import Hearing
from holdfast.supervisor.loading import Loading
from holdfast.supervisor.logging import LogPipes
from holdfast.supervisor.loop import Loop
from holdfast.supervisor.notify import Herald, manager_of, standing
from holdfast.supervisor.offspring import Launch
from holdfast.supervisor.reload import Reloads
from holdfast.supervisor.stacks import Stacks
from holdfast.supervisor.stopping import Stopping
from holdfast.supervisor.watch import Watch
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.succession import Succession

Answer = dict[str, Any]
Read = Callable[[], tuple[Inputs, DaemonOptions, str | None]]
RUNNING = Step("", lambda: None, lambda: False)
RESPAWN = 1.0  # a twin or a logger is not replaced more often than once in so many seconds


def jitter() -> float:
    """A factor around 1."""
    return random.uniform(0.8, 1.2)


class Supervisor:
    """From the first child to the last. `done` is the exit status, once everything has ended; `verdict` tells how the start went.

    `read` reads configuration and settings from the files as they are now.
    """

    def __init__(
        self,
        ground: Ground,
        first: Generation,
        read: Read,
        loop: Loop,
        on_verdict: Callable[[Answer], None],
        on_progress: Callable[[str], None],
    ) -> None:
        self.ground = ground
        self.read = read
        self.loop = loop
        self.done: int | None = None
        self.restarting = False
        self.state = "starting"
        self.started = time.monotonic()
        self._on_verdict = on_verdict
        self._verdict: Answer | None = None
        self._on_stopped: list[Callable[[], None]] = []
        hearing = Hearing(self)
        self.family = Family(loop, hearing.heard, hearing.ended, ground.instance.write_children)
        self.logs = LogPipes(self.family, ground)
        self.fleet = Fleet(jitter=jitter)
        self.generations = Generations(self, first)
        self.entries = Entries(ground.identity)
        self.births = Births(self.family, self.entries)
        self.totals: dict[str, Totals] = {}
        self.told: set[str] = set()  # which answers of the ingress have come
        self.numbers = 0
        self.settings_numbers = 0
        self.respawns: dict[str, float] = {}  # kind -> when
        self.watch = Watch(self)
        self.stacks = Stacks(self)
        self.effects = Effects(self)
        self.decide = self.effects.decide
        self._loading = Loading(self, first, self._time_left, self._late)
        self.reloads = Reloads(self)
        self._agenda = Agenda(self._start_steps(), lambda name: on_progress(name) if name else None)
        self.herald = Herald(manager_of(ground), lambda: standing(self))
        self.succession: Succession
        self.stop_at: float | None = None
        self.ending_logger = False

    @property
    def options(self) -> DaemonOptions:
        """`[daemon]` of the generation that serves."""
        return self.generations.current.options

    @property
    def current(self) -> Generation:
        """The generation that serves."""
        return self.generations.current

    # --- the loop

    def run_once(self, extra: float | None = None) -> None:
        """One turn: wait for events, then go on with whatever has become possible."""
        self.advance()
        if self.done is None:
            deadline = min(self._next_deadline(), self.herald.next_beat, *([extra] if extra is not None else []))
            self.loop.turn(None if deadline == float("inf") else deadline)
            self.advance()
        if self.done is None:
            self.family.write_down()
            if (now := time.monotonic()) >= self.herald.next_beat:
                self.herald.beat(now, behind=now - self._next_deadline())

    def _next_deadline(self) -> float:
        """When something of ours is due; infinity when nothing waits for time."""
        times = [
            self._agenda.next_deadline(),
            self.fleet.next_deadline(),
            self.reloads.next_deadline(),
            self.stacks.next_deadline(),
            self.watch.next_look,
        ]
        return min(t for t in (*times, *self.effects.kills.values(), *self.respawns.values()) if t is not None)

    def advance(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        self.decide(model.Tick())
        self.effects.advance(now)
        for kind in [kind for kind, at in self.respawns.items() if at <= now]:
            del self.respawns[kind]
            self._replace(kind)
        if now >= self.watch.next_look:
            self.watch.look(now)
        self.reloads.advance(now)
        self.stacks.advance(now)
        self.generations.let_old_ones_go()
        try:
            self._agenda.advance(now)
        except HoldfastError as error:
            self.fail(error)
        self.herald.tell(now)

    # --- the agendas

    def _start_steps(self) -> list[Step]:
        left = self._time_left
        return [
            Step("starting the logger", self.logs.begin, lambda: self.logs.ready, left, self._late),
            *self._loading.steps(),
            Step("starting workers", self._launch, self.fleet.ready, left, self._late),
            Step("opening", self._open, lambda: True),
            RUNNING,
        ]

    def _time_left(self) -> float:
        return self.started + self.options.start_timeout - time.monotonic()

    def _late(self) -> None:
        what = self._agenda.current
        self.fail(UnavailableError(f"not ready within start_timeout, {self.options.start_timeout:g} s: still {what}", remedy="see the log"))

    def fail(self, error: HoldfastError) -> None:
        """The start has failed: say why, leave nothing behind (G2)."""
        if self.state != "starting":
            return
        events.log("start.failed", str(error), level="error")
        answer: Answer = {"exit": error.exit_status, "error": str(error)}
        if isinstance(error, AppError) and error.trace:
            answer["trace"] = error.trace
        self._verdict = answer
        self._begin_stop(time.monotonic(), error.exit_status)

    def trouble(self, generation: int, error: HoldfastError) -> None:
        """Something of this generation failed while it was loaded: that refuses the reload, or the start."""
        if not self.reloads.trouble(generation, error):
            self.fail(error)

    # --- the steps of a start

    def _launch(self) -> None:
        self.prepare_totals(self.current)
        self.decide(model.Launch(self.current.number, self.current.plans()))
        self.watch.begin(time.monotonic())

    def _open(self) -> None:
        self.tell_ingress({"do": "open"})
        self.state = "running"
        events.log("daemon.ready", f"ready after {time.monotonic() - self.started:.3f} s")
        self._conclude({"exit": 0, "pid": self.ground.pid})

    def _conclude(self, answer: Answer) -> None:
        self._verdict = answer
        self._on_verdict(answer)

    @property
    def verdict(self) -> Answer | None:
        """How the start went; None while it goes on, or goes wrong and is not cleaned up yet."""
        return self._verdict if self.state == "running" or self.done is not None else None

    def resume(self, started: float) -> None:
        """Go on where the program before has stopped: everything is restored."""
        self.state, self.started = "running", started
        self._verdict = {"exit": 0, "pid": self.ground.pid}
        self._agenda = Agenda([RUNNING], lambda _name: None)

    # --- stop

    def stop(self, *, now: bool = False, timeout: float | None = None, then: Callable[[], None] | None = None) -> None:
        """Drain and end. A second call can only make it quicker, and a restart an end; `then` is called when all is over."""
        if then is not None:
            self._on_stopped.append(then)
        at = time.monotonic() + (0.0 if now else self.options.stop_timeout if timeout is None else timeout)
        if self.stop_at is None:
            events.log("daemon.stopping", "at once" if now else "")
            if self.state == "starting":
                self._verdict = {"exit": 1, "error": "it was told to stop before it was ready"}
            self._begin_stop(at, 0)
            return
        self.restarting = False  # who asks for an end now means it
        if at < self.stop_at:
            self.stop_at = at
            self.told.add("drained")  # nobody waits for that any more
            self.decide(model.Stop(max(0.0, at - time.monotonic())))

    def _begin_stop(self, at: float, status: int) -> None:
        self.state = "stopping"
        self.stop_at, self._status = at, status
        self.watch.end()
        self.respawns.clear()
        self.reloads.end("the daemon is stopping")
        self._agenda = Agenda(Stopping(self, self._finish).steps(), lambda name: events.log("stop.step", name, level="debug"))

    def _finish(self) -> None:
        self.entries.close()
        if not self.restarting:
            self.ground.instance.remove()
        self.done = self._status
        if self._verdict is not None and self._verdict["exit"]:
            self._on_verdict(self._verdict)
        for then in self._on_stopped:
            then()

    # --- what its parts ask

    def prepare_totals(self, generation: Generation) -> None:
        """Where the dead workers' counters of its jobs go."""
        for name in generation.jobs:
            self.totals.setdefault(name, Totals())

    def next_settings_id(self) -> int:
        """A number for one handing out of settings."""
        self.settings_numbers += 1
        return self.settings_numbers

    # --- processes that are replaced

    def begin_ingress(self) -> None:
        """Start an ingress and tell it of every door."""
        tally = self.entries.begin()
        boot = {"epoch": self.entries.epoch, "stop_timeout": self.options.stop_timeout, "log_level": self.options.log_level}
        ingress = self.execute("ingress", self.ground.launch("ingress", boot, "/", fds={"tally": tally}))
        self.entries.introduce(ingress, self.entries.doors.values())

    def tell_ingress(self, packet: Packet) -> bool:
        """Whether one was there to be told."""
        told = [ingress.channel.send(packet) for ingress in self.family.of("ingress")]
        return any(told)

    def respawn(self, kind: str) -> None:
        """Have one of this kind again, in a moment."""
        self.respawns[kind] = time.monotonic() + RESPAWN

    def _replace(self, kind: str) -> None:
        if self.state == "stopping" and kind != "logger":
            return
        if kind == "twin":
            for generation in self.generations.known.values():
                self.generations.make_twin(generation)
        elif kind == "logger":
            self.logs.begin()
        else:
            self.begin_ingress()
            self.tell_ingress({"do": "open"})

    # --- small things

    def execute(self, kind: str, launch: Launch) -> Child:
        """Start a process of ours."""
        return self.logs.execute(self.name(kind), launch)

    def name(self, kind: str) -> str:
        self.numbers += 1
        return f"{kind}.{self.numbers}"

    def jobs(self) -> dict[str, JobConfig]:
        """All that run: those of the generation that serves, and new ones that are being rolled out."""
        candidate = self.reloads.candidate()
        coming = candidate.jobs if candidate is not None and self.fleet.rollout is not None else {}
        return {**coming, **self.current.jobs}

    @property
    def condition(self) -> str:
        """The state, as it is shown."""
        return "generation lost" if self.state == "running" and self.current.lost else self.state

    @property
    def step(self) -> str:
        """What the start or stop under way is doing."""
        return self._agenda.current

    @property
    def failure(self) -> str:
        """Why the start has failed."""
        return str(self._verdict.get("error", "")) if self._verdict is not None else ""

    def status(self) -> Answer:
        """What `status --json` prints."""
        now = time.monotonic()
        jobs = view.jobs(self.jobs(), self.fleet, self.family.members, self.entries, self.totals, now) if self.totals else []
        return {
            "name": self.options.name,
            "state": self.condition,
            "pid": self.ground.pid,
            "generation": self.fleet.generation,
            "uptime_s": round(now - self.started, 3),
            "version": self.ground.version,
            **self.ground.guarding(),
            **({"step": self.step} if self.state != "running" else {}),
            **({"reload": self.reloads.step} if self.reloads.running is not None else {}),
            **({"last_reload": self.reloads.last} if self.reloads.last is not None else {}),
            "log_lines_lost": self.logs.lost,
            "jobs": jobs,
            "programs": [],
        }

    def slots(self, job: str) -> int:
        """How many workers of the job are wanted."""
        return len(self.fleet.jobs[job].ordinary())

    def retry_letters(self, job: str) -> bool:
        """Ask one worker of the job to look for letters; False when none is active."""
        for child in self.family.of("worker"):
            worker = self.fleet.workers.get(child.id)
            if child.job == job and worker is not None and worker.life is Life.ACTIVE and not worker.quarantine:
                return child.channel.send({"do": "retry-letters"})
        return False
