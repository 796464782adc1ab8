"""The supervisor at work: events in, decisions of the model, effects out. One thread, standard library only, no user code (G8).

A start and a stop are agendas of named steps. Between them the fleet (`holdfast.model.fleet`) decides about workers, `Reloads` about new
generations, and the few rules here keep the logger, the zygotes with their twins, and the ingress alive.
"""

from __future__ import annotations

import dataclasses
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from holdfast.errors import AppError, HoldfastError, UnavailableError
from holdfast.linux.channel import Packet
from holdfast.model import fleet_events as model
from holdfast.model.fleet import Fleet
from holdfast.model.inputs import Inputs
from holdfast.model.job_options import JobConfig
from holdfast.model.life import Life
from holdfast.model.options import DaemonOptions
from holdfast.supervisor import family as families
from holdfast.supervisor import view
from holdfast.supervisor.agenda import Agenda, Step
from holdfast.supervisor.births import Births
from holdfast.supervisor.boards import Totals
from holdfast.supervisor.entries import Entries, limits
from holdfast.supervisor.family import Child, Family
from holdfast.supervisor.generation import Generation
from holdfast.supervisor.ground import Ground
from holdfast.supervisor.hearing import RESPAWN, Hearing
from holdfast.supervisor.loading import Loading
from holdfast.supervisor.logging import LogPipes
from holdfast.supervisor.loop import Loop
from holdfast.supervisor.offspring import Launch
from holdfast.supervisor.reload import Reload, Reloads
from holdfast.supervisor.settings_reload import hand_out
from holdfast.telemetry import events

Answer = dict[str, Any]
Read = Callable[[], tuple[Inputs, DaemonOptions, str | None]]
GONE = 2.0  # seconds in which a process that has nothing more to do is gone
AFTER_ABORT = 1.0  # seconds for the stacks of a hung worker
HEARTBEATS_MISSED = 3


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
        self.fleet = Fleet(jitter=lambda: random.uniform(0.8, 1.2))
        self.current = first
        self.generations = {first.number: first}
        self._newest = first.number
        self.entries = Entries(ground.identity)
        self.births = Births(self.family, self.entries)
        self.totals: dict[str, Totals] = {}
        self.told: set[str] = set()  # which answers of the ingress have come
        self._numbers = 0
        self._settings_numbers = 0
        self.kills: dict[str, float] = {}  # worker -> when ABRT becomes KILL
        self.respawns: dict[str, float] = {}  # kind -> when
        self._removing: set[str] = set()  # jobs for which nothing comes in any more, and that are not gone yet
        self._next_look = float("inf")
        self._looked_at = time.monotonic()
        self._loading = Loading(self, first, self._time_left, self._late)
        self.reloads = Reloads(self)
        self._agenda = Agenda(self._start_steps(), lambda name: on_progress(name) if name else None)
        self._stop_at: float | None = None
        self.ending_logger = False

    @property
    def options(self) -> DaemonOptions:
        """`[daemon]` of the generation that serves."""
        return self.current.options

    # --- the loop

    def run_once(self, extra: float | None = None) -> None:
        """One turn: wait for events, then go on with whatever has become possible."""
        self.advance()
        if self.done is None:
            times = [extra, self._agenda.next_deadline(), self.fleet.next_deadline(), self.reloads.next_deadline(), self._next_look]
            deadline = min(t for t in (*times, *self.kills.values(), *self.respawns.values()) if t is not None)
            self.loop.turn(None if deadline == float("inf") else deadline)
            self.advance()

    def advance(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        self.decide(model.Tick())
        for worker_id in [name for name, at in self.kills.items() if at <= now]:
            del self.kills[worker_id]
            if worker_id in self.family.members:
                self.family.members[worker_id].kill(signal.SIGKILL)
        for kind in [kind for kind, at in self.respawns.items() if at <= now]:
            del self.respawns[kind]
            self._replace(kind)
        if now >= self._next_look:
            self._look_at_boards(now)
        self.reloads.advance(now)
        self._let_old_generations_go()
        try:
            self._agenda.advance(now)
        except HoldfastError as error:
            self.fail(error)

    # --- the agendas

    def _start_steps(self) -> list[Step]:
        left = self._time_left
        return [
            Step("starting the logger", self.logs.begin, lambda: self.logs.ready, left, self._late),
            *self._loading.steps(),
            Step("starting workers", self._launch, self.fleet.ready, left, self._late),
            Step("opening", self._open, lambda: True),
            Step("", lambda: None, lambda: False),
        ]

    def _stop_steps(self) -> list[Step]:
        return [
            Step(
                "draining the ingress",
                self._drain_ingress,
                lambda: "drained" in self.told or not self.family.of("ingress"),
                self._intake_left,
            ),
            Step("draining workers", self._drain_workers, lambda: self.fleet.stopped() and not self.family.of("prepare")),
            Step("ending the ingress", lambda: self._leave("ingress"), self._none("ingress"), lambda: GONE, lambda: self._kill("ingress")),
            Step(
                "ending the zygotes", self._leave_zygotes, self._none("zygote", "twin"), lambda: GONE, lambda: self._kill("zygote", "twin")
            ),
            Step("ending strays", self._end_strays, self._no_strays, lambda: GONE, self._end_strays),
            Step("ending the logger", self._end_logger, self._none("logger"), lambda: GONE, lambda: self._kill("logger")),
            Step("ended", self._finish, lambda: True),
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
        self._looked_at = time.monotonic()
        self._next_look = self._looked_at + self._beat

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

    # --- stop

    def stop(self, *, now: bool = False, timeout: float | None = None, then: Callable[[], None] | None = None) -> None:
        """Drain and end. A second call can only make it quicker; `then` is called when all is over."""
        if then is not None:
            self._on_stopped.append(then)
        at = time.monotonic() + (0.0 if now else self.options.stop_timeout if timeout is None else timeout)
        if self._stop_at is None:
            events.log("daemon.stopping", "at once" if now else "")
            self._begin_stop(at, 0)
        elif at < self._stop_at:
            self._stop_at = at
            self.told.add("drained")  # nobody waits for that any more
            self.decide(model.Stop(max(0.0, at - time.monotonic())))

    def _begin_stop(self, at: float, status: int) -> None:
        self.state = "stopping"
        self._stop_at, self._status = at, status
        self._next_look = float("inf")
        self.respawns.clear()
        self.reloads.end("the daemon is stopping")
        self._agenda = Agenda(self._stop_steps(), lambda name: events.log("stop.step", name, level="debug"))

    def _intake_left(self) -> float:
        assert self._stop_at is not None
        left = self._stop_at - time.monotonic()
        return left - min(2.0, left / 4)

    def _drain_ingress(self) -> None:
        self.tell_ingress({"do": "drain"})

    def _drain_workers(self) -> None:
        assert self._stop_at is not None
        for child in self.family.of("prepare"):
            child.kill(signal.SIGKILL)
        self.decide(model.Stop(max(0.0, self._stop_at - time.monotonic())))

    def _leave(self, *kinds: str) -> None:
        for kind in kinds:
            for child in self.family.of(kind):
                child.channel.send({"do": "leave"})

    def _end_logger(self) -> None:
        self.ending_logger = True
        self.logs.finish()

    def _leave_zygotes(self) -> None:
        for child in list(self.family.members.values()):
            if not child.pid:
                self.family.unborn(child.id)
        self._leave("zygote", "twin")

    def _none(self, *kinds: str) -> Callable[[], bool]:
        return lambda: not any(self.family.of(kind) for kind in kinds)

    def _kill(self, *kinds: str) -> None:
        for kind in kinds:
            for child in self.family.of(kind):
                child.kill(signal.SIGKILL)

    def _end_strays(self) -> None:
        families.end(self.family.strays())

    def _no_strays(self) -> bool:
        """Those that their death leaves to us are found on the next look."""
        self.family.reap()
        left = self.family.strays()
        families.end(left)
        return not left

    def _finish(self) -> None:
        self.entries.close()
        if not self.restarting:
            self.ground.instance.remove()
        self.done = self._status
        if self._verdict is not None and self._verdict["exit"]:
            self._on_verdict(self._verdict)
        for then in self._on_stopped:
            then()

    # --- generations

    def next_generation(self) -> int:
        """The number of the generation that comes."""
        self._newest += 1
        return self._newest

    def loaded(self, zygote: Child, packet: Packet) -> None:
        """A zygote has imported its application."""
        generation = self.generations.get(zygote.generation)
        if generation is None:
            return
        if generation.declared is None:
            generation.declared = packet
        elif packet.get("digest") != generation.digest:
            self._lose(generation)
            self.let_go(zygote)
        else:
            events.log("generation.found", "the files are still those that were loaded", generation=generation.number)
            generation.lost = False
            self.make_twin(generation)

    def prepared(self, child: Child) -> None:
        """The tables of a job are there."""
        generation = self.generations.get(child.generation)
        if generation is not None and child.job in generation.unprepared:
            generation.unprepared.remove(child.job)
            Loading(self, generation, self._time_left, self._late).prepare_next()

    def make_twin(self, generation: Generation) -> None:
        """Let the zygote fork its twin, which is the same loaded generation, for the case that it dies."""
        zygote = self.family.zygote(generation.number)
        if zygote is None or any(twin.generation == generation.number for twin in self.family.of("twin")):
            return
        name = self._name("twin")
        log = self.logs.pipe(name, "", "twin")
        self.births.twin(generation, zygote, name, log.write, time.monotonic())
        log.adopt()

    def replace_zygote(self, generation: Generation) -> None:
        """The twin takes over. If it is gone too, the files may still hold what was loaded; if they do not, the generation is lost."""
        twin = next((twin for twin in self.family.of("twin") if twin.generation == generation.number and twin.pid), None)
        if twin is not None:
            twin.kind = "zygote"
            self.make_twin(generation)
            self.decide(model.Tick())
        elif generation.digest:
            generation.lost = True
            Loading(self, generation, self._time_left, self._late).import_again()
        else:
            self._lose(generation)

    def _lose(self, generation: Generation) -> None:
        generation.lost = True
        text = "zygote and twin are gone, and the files have changed since: workers that die are not replaced; reload"
        events.log("generation.lost", text, level="error", generation=generation.number)

    def accept(self, generation: Generation) -> None:
        """This generation serves from here on."""
        before, self.current = self.current.options, generation
        self.ground = dataclasses.replace(self.ground, options=generation.options)
        self.logs.ground = self.ground
        self._next_look = min(self._next_look, time.monotonic() + self._beat)
        for door in self.entries.unwanted(generation.jobs):
            if door.job in generation.jobs:
                self.tell_ingress({"do": "retire", "door": door.id})
                self.entries.give_up([door])
        for name, job in generation.jobs.items():
            self.tell_ingress({"do": "limits", "job": name, "limits": limits(job.options)})
        if (before.log, before.log_format, before.log_level) != (generation.options.log, *_log_form(generation.options)):
            self.logs.begin_anew()

    def prepare_totals(self, generation: Generation) -> None:
        """Where the dead workers' counters of its jobs go."""
        for name in generation.jobs:
            self.totals.setdefault(name, Totals())

    def _remove(self, job: str) -> None:
        """Nothing comes in for the job any more; once what is held is done, its workers go."""
        self._removing.add(job)
        doors = [door for door in self.entries.doors.values() if door.job == job]
        told = self.tell_ingress({"do": "remove", "job": job}) if doors else False
        self.entries.give_up(doors)
        if not told:
            self.decide(model.Retire(job))

    def nothing_to_remove(self) -> bool:
        """Whether the jobs that are not wanted any more are gone."""
        self._removing &= self.fleet.jobs.keys()
        return not self._removing

    def remove_now(self) -> None:
        """Wait for nothing any more."""
        for job in sorted(self._removing):
            self.decide(model.Retire(job))

    def _let_old_generations_go(self) -> None:
        if self.state != "running":
            return
        candidate = self.reloads.candidate()
        needed = self.fleet.generations() | {self.current.number} | ({candidate.number} if candidate is not None else set())
        for number in self.generations.keys() - needed:
            del self.generations[number]
        for child in (*self.family.of("zygote"), *self.family.of("twin")):
            if child.generation not in self.generations and not child.facts.get("leaving"):
                self.let_go(child)

    def let_go(self, child: Child) -> None:
        """A zygote, a twin or a `prepare` run is not needed any more."""
        child.facts["leaving"] = True
        if not child.pid:
            self.family.unborn(child.id)
        elif child.kind == "prepare" or not child.channel.send({"do": "leave"}):
            child.kill(signal.SIGKILL)

    # --- settings in place

    def next_settings_id(self) -> int:
        """A number for one handing out of settings."""
        self._settings_numbers += 1
        return self._settings_numbers

    def catch_up_settings(self) -> None:
        """Workers that were born with older settings get those that count now."""
        for child in self.family.of("worker"):
            worker = self.fleet.workers.get(child.id)
            old = child.generation == self.current.number and child.facts.get("settings") != self.current.settings_version
            if old and worker is not None and worker.life is Life.ACTIVE:
                number = self.next_settings_id()
                child.facts["settings"] = self.current.settings_version
                if hand_out(child, number, self.current.settings_text):
                    child.channel.send({"do": "keep-settings", "id": number})

    # --- processes that are replaced

    def begin_ingress(self) -> None:
        """Start an ingress and tell it of every door."""
        tally = self.entries.begin()
        boot = {"epoch": self.entries.epoch, "stop_timeout": self.options.stop_timeout, "log_level": self.options.log_level}
        ingress = self.execute("ingress", self.ground.launch("ingress", boot, "/", fds={"tally": tally}), closing=tally)
        self.entries.introduce(ingress, self.entries.doors.values())

    def tell_ingress(self, packet: Packet) -> bool:
        """Whether one was there to be told."""
        told = [ingress.channel.send(packet) for ingress in self.family.of("ingress")]
        return any(told)

    def _replace(self, kind: str) -> None:
        if self.state == "stopping" and kind != "logger":
            return
        if kind == "twin":
            for generation in self.generations.values():
                self.make_twin(generation)
        elif kind == "logger":
            self.logs.begin()
        else:
            self.begin_ingress()
            self.tell_ingress({"do": "open"})

    # --- what the model decides

    def decide(self, event: model.Event) -> None:
        """Let the fleet take the event, and do what it wants."""
        now = time.monotonic()
        for effect in self.fleet.handle(event, now):
            match effect:
                case model.Spawn(worker, job, _slot, generation, quarantine):
                    self._spawn_worker(worker, job, generation, quarantine=quarantine)
                case model.Activate(worker):
                    self._tell(worker, {"do": "activate"})
                    events.log("worker.active", worker=worker)
                    self.catch_up_settings()
                case model.Drain(worker):
                    self._tell(worker, {"do": "drain"})
                case model.Kill(worker, stacks):
                    self._put_down(worker, stacks=stacks, now=now)
                case model.Note(name, worker, text, job, level):
                    events.log(name, text, level=level, worker=worker, job=job)
                case model.Removed(job):
                    self._remove(job)
                case _:
                    self._tell_reload(effect)

    def _tell_reload(self, effect: model.Effect) -> None:
        running = self.reloads.running
        if not isinstance(running, Reload):
            return
        match effect:
            case model.Progress(text):
                running.progress(text)
            case model.RolledOut():
                running.rolled_out()
            case model.RolledBack(_generation, reason):
                running.rolled_back(reason)

    def _tell(self, worker: str, packet: Packet) -> None:
        child = self.family.members.get(worker)
        if child is not None:
            child.channel.send(packet)

    def _put_down(self, worker: str, *, stacks: bool, now: float) -> None:
        """ABRT shows the stacks of all threads, CONT wakes a stopped process for it, KILL follows."""
        child = self.family.members.get(worker)
        if child is None:
            return
        if not child.pid:
            self.unborn(worker, "it never came to life")
        elif stacks and not (self._stop_at is not None and self._stop_at <= now):
            child.kill(signal.SIGABRT)
            child.kill(signal.SIGCONT)
            self.kills[worker] = now + AFTER_ABORT
        else:
            child.kill(signal.SIGKILL)

    def _spawn_worker(self, child_id: str, job: str, number: int, *, quarantine: bool) -> None:
        generation = self.generations.get(number)
        zygote = self.family.zygote(number)
        if zygote is None or generation is None or generation.lost:
            self.decide(model.SpawnFailed(child_id, "there is no zygote"))
            return
        log = self.logs.pipe(child_id, job, child_id)
        role: Any = "quarantine" if quarantine else "worker"
        child = self.births.worker(generation, zygote, child_id, job, role, log.write, time.monotonic())
        log.adopt()
        if child is None:
            self.unborn(child_id, "the zygote cannot be told")

    def spawn(self, role: str, generation: Generation, job: str) -> None:
        """Make a `prepare` run of a job."""
        zygote = self.family.zygote(generation.number)
        name = self._name(role)
        if zygote is None:
            self.trouble(generation.number, AppError("there is no zygote", where=f"job {job}"))
            return
        log = self.logs.pipe(name, job, name)
        child = self.births.worker(generation, zygote, name, job, "prepare", log.write, time.monotonic())
        log.adopt()
        if child is None:
            self.unborn(name, "the zygote cannot be told")

    def unborn(self, child_id: str, reason: str) -> None:
        """A child that was asked for will never be."""
        child = self.family.unborn(child_id)
        if child is None:
            return
        if child.attached:
            self.tell_ingress({"do": "dead", "worker": child_id, "suspects": [], "reason": reason})
        if child.kind == "worker":
            self.decide(model.SpawnFailed(child_id, reason))
        elif child.kind == "twin":
            self.respawns["twin"] = time.monotonic() + RESPAWN
        else:
            self.trouble(child.generation, AppError(f"a process could not be made: {reason}", where=f"job {child.job}"))

    # --- looking after workers

    def _look_at_boards(self, now: float) -> None:
        """Whose loop has not turned for three heartbeats, or whose handler is over its limit without a word, is hung.

        If this look itself comes late (the machine slept, we were stopped), nobody is judged this time.
        """
        late = now - self._looked_at > 2 * self._beat
        self._looked_at, self._next_look = now, now + self._beat
        if late:
            return
        for child in self.family.of("worker"):
            worker = self.fleet.workers.get(child.id)
            if worker is None or worker.life is not Life.ACTIVE or child.id in self.kills:
                continue
            reading = view.reading(child, now)
            silent = now - max(reading.heartbeat_ns / view.NS, worker.since)
            if silent > HEARTBEATS_MISSED * self._beat_of(child):
                self.decide(model.Hung(child.id, f"its loop has not turned for {silent:.1f} s"))

    @property
    def _beat(self) -> float:
        return min((job.options.heartbeat for one in self.generations.values() for job in one.jobs.values()), default=10.0)

    def _beat_of(self, child: Child) -> float:
        generation = self.generations.get(child.generation)
        return generation.jobs[child.job].options.heartbeat if generation is not None else self._beat

    # --- small things

    def execute(self, kind: str, launch: Launch, closing: int = -1) -> Child:
        """Start a process of ours; `closing` is a descriptor that is the child's from then on."""
        return self.logs.execute(self._name(kind), launch, closing)

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}.{self._numbers}"

    def jobs(self) -> dict[str, JobConfig]:
        """All that run: those of the generation that serves, and new ones that are being rolled out."""
        candidate = self.reloads.candidate()
        coming = candidate.jobs if candidate is not None and self.fleet.rollout is not None else {}
        return {**coming, **self.current.jobs}

    def status(self) -> Answer:
        """What `status --json` prints."""
        now = time.monotonic()
        jobs = view.jobs(self.jobs(), self.fleet, self.family.members, self.entries, self.totals, now) if self.totals else []
        return {
            "name": self.options.name,
            "state": "generation lost" if self.state == "running" and self.current.lost else self.state,
            "pid": self.ground.pid,
            "generation": self.fleet.generation,
            "uptime_s": round(now - self.started, 3),
            "version": self.ground.version,
            **({"step": self._agenda.current} if self.state != "running" else {}),
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


def _log_form(options: DaemonOptions) -> tuple[str, str]:
    return options.log_format, options.log_level
