"""The supervisor at work: events in, decisions of the model, effects out. One thread, standard library only, no user code (G8).

A start and a stop are agendas of named steps. Between them the fleet (`holdfast.model.fleet`) decides about workers, and the few
rules here keep the logger, the zygote with its twin, and the ingress alive.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import Any

from holdfast.errors import AppError, HoldfastError, UnavailableError
from holdfast.linux.channel import Packet, from_memfd
from holdfast.linux.process import Exit
from holdfast.model import fleet as model
from holdfast.model.configuration import Configuration, require_runnable, resolve
from holdfast.model.inputs import Inputs
from holdfast.model.life import Life
from holdfast.model.spec import Declaration
from holdfast.supervisor import family as families
from holdfast.supervisor import view
from holdfast.supervisor.agenda import Agenda, Step
from holdfast.supervisor.births import Births
from holdfast.supervisor.boards import Totals
from holdfast.supervisor.entries import Entries
from holdfast.supervisor.family import Child, Family
from holdfast.supervisor.ground import Ground
from holdfast.supervisor.inputs import secrets_as
from holdfast.supervisor.logging import LogPipes
from holdfast.supervisor.loop import Loop
from holdfast.telemetry import events

Answer = dict[str, Any]
GONE = 2.0  # seconds in which a process that has nothing more to do is gone
AFTER_ABORT = 1.0  # seconds for the stacks of a hung worker
HEARTBEATS_MISSED = 3
RESPAWN = 1.0  # an ingress or logger is not replaced more often than once in so many seconds


class Supervisor:
    """From the first child to the last. `done` is the exit status, once everything has ended; `verdict` tells how the start went."""

    def __init__(
        self, ground: Ground, inputs: Inputs, loop: Loop, on_verdict: Callable[[Answer], None], on_progress: Callable[[str], None]
    ) -> None:
        self.ground = ground
        self.options = ground.options
        self.inputs = inputs
        self.loop = loop
        self.done: int | None = None
        self.restarting = False
        self.state = "starting"
        self.started = time.monotonic()
        self._on_verdict = on_verdict
        self._verdict: Answer | None = None
        self._on_stopped: list[Callable[[], None]] = []
        self.family = Family(loop, self._heard, self._ended, ground.instance.write_children)
        self.logs = LogPipes(self.family, ground)
        self.fleet = model.Fleet({}, jitter=lambda: random.uniform(0.8, 1.2))
        self.configuration: Configuration | None = None
        self.entries = Entries({}, ground.identity)
        self.totals: dict[str, Totals] = {}
        self._births: Births | None = None
        self._declared: Packet | None = None
        self._unprepared: list[str] = []
        self._told: set[str] = set()  # which answers of the ingress and the logger have come
        self._numbers = 0
        self._kills: dict[str, float] = {}  # worker -> when ABRT becomes KILL
        self._respawns: dict[str, float] = {}  # kind -> when
        self._next_look = float("inf")
        self._looked_at = time.monotonic()
        self._agenda = Agenda(self._start_steps(), lambda name: on_progress(name) if name else None)
        self._stop_at: float | None = None

    # --- the loop

    def run_once(self, extra: float | None = None) -> None:
        """One turn: wait for events, then go on with whatever has become possible."""
        self.advance()
        if self.done is None:
            times = [extra, self._agenda.next_deadline(), self.fleet.next_deadline(), *self._kills.values(), *self._respawns.values()]
            deadline = min((t for t in (*times, self._next_look) if t is not None), default=None)
            self.loop.turn(None if deadline == float("inf") else deadline)
            self.advance()

    def advance(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        self._decide(model.Tick(), now)
        for worker_id in [name for name, at in self._kills.items() if at <= now]:
            del self._kills[worker_id]
            if worker_id in self.family.members:
                self.family.members[worker_id].kill(signal.SIGKILL)
        for kind in [kind for kind, at in self._respawns.items() if at <= now]:
            del self._respawns[kind]
            self._replace(kind)
        if now >= self._next_look:
            self._look_at_boards(now)
        try:
            self._agenda.advance(now)
        except HoldfastError as error:
            self.fail(error)

    # --- the agendas

    def _start_steps(self) -> list[Step]:
        left = self._time_left
        return [
            Step("starting the logger", self.logs.begin, lambda: self.logs.ready, left, self._late),
            Step("importing the application", self._load, lambda: self._declared is not None, left, self._late),
            Step("reading the configuration", self._configure, lambda: True),
            Step("binding", self._bind, lambda: True),
            Step("starting the ingress", self._begin_ingress, self._all_listen, left, self._late),
            Step("preparing tables", self._prepare_next, lambda: not self._unprepared, left, self._late),
            Step("starting the twin", self._begin_twin, lambda: True),
            Step("starting workers", self._launch, self.fleet.ready, left, self._late),
            Step("opening", self._open, lambda: True),
            Step("", lambda: None, lambda: False),
        ]

    def _stop_steps(self) -> list[Step]:
        return [
            Step(
                "draining the ingress",
                self._drain_ingress,
                lambda: "drained" in self._told or not self.family.of("ingress"),
                self._intake_left,
            ),
            Step("draining workers", self._drain_workers, lambda: self.fleet.stopped() and not self.family.of("prepare")),
            Step("ending the ingress", lambda: self._leave("ingress"), self._none("ingress"), lambda: GONE, lambda: self._kill("ingress")),
            Step(
                "ending the zygotes", self._leave_zygotes, self._none("zygote", "twin"), lambda: GONE, lambda: self._kill("zygote", "twin")
            ),
            Step("ending strays", self._end_strays, self._no_strays, lambda: GONE, self._end_strays),
            Step("ending the logger", self.logs.finish, self._none("logger"), lambda: GONE, lambda: self._kill("logger")),
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

    # --- the steps of a start

    def _load(self) -> None:
        boot = {
            "app": self.options.app,
            "directory": self.inputs.directory,
            "generation": 1,
            "settings_path": self.options.settings,
            "settings_text": self.ground.settings_text,
            "allow_threads": self.ground.allow_threads,
            "preload": [],
        }
        self._execute("zygote", self.ground.launch("zygote", boot, self.inputs.directory))

    def _configure(self) -> None:
        assert self._declared is not None
        declarations = [Declaration.from_json(one) for one in self._declared["jobs"]]
        configuration = resolve(self.inputs, declarations, self._declared["default"], secrets_as(self.ground.identity))
        require_runnable(configuration)
        self.configuration = configuration
        self.entries = Entries(configuration.jobs, self.ground.identity)
        self.totals = {name: Totals() for name in configuration.jobs}
        self._births = Births(self.family, self.options, configuration.jobs, self.ground.settings_text)
        for name, job in configuration.jobs.items():
            slots = {number: model.Slot() for number in range(job.options.processes)}
            limits = {"start_limit": self.options.start_timeout, "drain_limit": self.options.stop_timeout}
            self.fleet.jobs[name] = model.JobFleet(name, overlap=bool(job.options.overlap), slots=slots, **limits)
        self._unprepared = [name for name, job in configuration.jobs.items() if job.options.store]

    def _bind(self) -> None:
        self.entries.bind()

    def _begin_ingress(self) -> None:
        if not self.entries.sources:
            return
        tally = self.entries.begin()
        boot = {"epoch": self.entries.epoch, "stop_timeout": self.options.stop_timeout, "log_level": self.options.log_level}
        ingress = self._execute("ingress", self.ground.launch("ingress", boot, "/", fds={"tally": tally}), closing=tally)
        self.entries.introduce(ingress)

    def _all_listen(self) -> bool:
        return self.entries.listening >= set(self.entries.sources)

    def _prepare_next(self) -> None:
        if self._unprepared:
            self._spawn(self._name("prepare"), self._unprepared[0], "prepare")

    def _begin_twin(self) -> None:
        zygote = self.family.one("zygote")
        assert self._births is not None
        if zygote is not None and not self.family.of("twin"):
            name = self._name("twin")
            log = self.logs.pipe(name, "", "twin")
            self._births.twin(zygote, name, log.write, time.monotonic())
            log.adopt()

    def _launch(self) -> None:
        self._decide(model.Launch(1), time.monotonic())
        assert self.configuration is not None
        beat = min(job.options.heartbeat for job in self.configuration.jobs.values())
        self._beat = beat
        self._looked_at = time.monotonic()
        self._next_look = self._looked_at + beat

    def _open(self) -> None:
        for ingress in self.family.of("ingress"):
            ingress.channel.send({"do": "open"})
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
            self._told.add("drained")  # nobody waits for that any more
            self._decide(model.Stop(max(0.0, at - time.monotonic())), time.monotonic())

    def _begin_stop(self, at: float, status: int) -> None:
        self.state = "stopping"
        self._stop_at, self._status = at, status
        self._next_look = float("inf")
        self._respawns.clear()
        self._agenda = Agenda(self._stop_steps(), lambda name: events.log("stop.step", name, level="debug"))

    def _intake_left(self) -> float:
        assert self._stop_at is not None
        left = self._stop_at - time.monotonic()
        return left - min(2.0, left / 4)

    def _drain_ingress(self) -> None:
        for ingress in self.family.of("ingress"):
            ingress.channel.send({"do": "drain"})

    def _drain_workers(self) -> None:
        assert self._stop_at is not None
        for child in self.family.of("prepare"):
            child.kill(signal.SIGKILL)
        self._decide(model.Stop(max(0.0, self._stop_at - time.monotonic())), time.monotonic())

    def _leave(self, *kinds: str) -> None:
        for kind in kinds:
            for child in self.family.of(kind):
                child.channel.send({"do": "leave"})

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

    # --- what children say

    def _heard(self, child: Child, packet: Packet, fds: list[int]) -> None:
        texts = [from_memfd(fd).decode(errors="replace") for fd in fds]
        word = str(packet.get("say"))
        handler = getattr(self, f"_on_{child.kind}_{word.replace('-', '_')}", None) or getattr(self, f"_on_{word.replace('-', '_')}", None)
        if handler is None:
            events.log("packet.unknown", f"{child.id} says {word!r}", level="warning")
        else:
            handler(child, packet, "".join(texts))

    def _on_logger_ready(self, _child: Child, _packet: Packet, _text: str) -> None:
        self.logs.ready = True

    def _on_logger_lost(self, _child: Child, packet: Packet, _text: str) -> None:
        if not packet["lines"] and self.state == "starting":
            self.fail(UnavailableError(f"the log cannot be written: {packet['reason']}", where="log", remedy="correct 'log' in [daemon]"))
        self.logs.lost += int(packet["lines"])

    def _on_logger_writing(self, _child: Child, _packet: Packet, _text: str) -> None:
        return

    def _on_loaded(self, _child: Child, packet: Packet, _text: str) -> None:
        self._declared = packet

    def _on_failed(self, child: Child, packet: Packet, text: str) -> None:
        kind = UnavailableError if packet.get("exit") == 5 else AppError
        error = kind(str(packet["reason"]), where=f"job {child.job}" if child.job else "")
        if isinstance(error, AppError):
            error.trace = text
        events.log(f"{child.kind}.failed", str(packet["reason"]), level="error", job=child.job, worker=child.id, trace=text)
        child.facts["failed"] = str(packet["reason"])
        self.fail(error)

    def _on_ingress_failed(self, _child: Child, packet: Packet, _text: str) -> None:
        events.log("ingress.failed", str(packet["reason"]), level="error", job=str(packet["job"]))
        self.fail(UnavailableError(str(packet["reason"]), where=f"job {packet['job']}, source"))

    def _on_ingress_listening(self, _child: Child, packet: Packet, _text: str) -> None:
        self.entries.listening.add(str(packet["job"]))

    def _on_ingress_drained(self, _child: Child, _packet: Packet, _text: str) -> None:
        self._told.add("drained")

    def _on_suspects(self, _child: Child, packet: Packet, _text: str) -> None:
        self._decide(model.Suspects(str(packet["job"]), int(packet["count"])), time.monotonic())

    def _on_spawned(self, _child: Child, packet: Packet, _text: str) -> None:
        self.family.born(str(packet["id"]), int(packet["pid"]))
        self.family.reap()

    def _on_spawn_failed(self, _child: Child, packet: Packet, _text: str) -> None:
        self._unborn(str(packet["id"]), str(packet["reason"]))

    def _on_twin(self, _child: Child, _packet: Packet, _text: str) -> None:
        return

    def _on_prepared(self, child: Child, _packet: Packet, _text: str) -> None:
        child.facts["prepared"] = True

    def _on_ready(self, child: Child, _packet: Packet, _text: str) -> None:
        self._decide(model.Ready(child.id), time.monotonic())

    def _on_paused(self, child: Child, packet: Packet, _text: str) -> None:
        child.facts["paused"] = str(packet["reason"])
        events.log("job.paused", str(packet["reason"]), level="warning", job=child.job, worker=child.id)

    def _on_resumed(self, child: Child, _packet: Packet, _text: str) -> None:
        child.facts.pop("paused", None)
        events.log("job.resumed", job=child.job, worker=child.id)

    def _on_hung(self, child: Child, packet: Packet, _text: str) -> None:
        self._decide(model.Hung(child.id, f"thread {packet.get('thread')} is over its time limit"), time.monotonic())

    def _on_drained(self, _child: Child, _packet: Packet, _text: str) -> None:
        return

    # --- how children end

    def _ended(self, child: Child, how: Exit) -> None:
        now = time.monotonic()
        getattr(self, f"_{child.kind}_ended")(child, how, now)

    def _worker_ended(self, child: Child, how: Exit, now: float) -> None:
        reading = view.reading(child, now)
        self.totals[child.job].add(reading)
        self._kills.pop(child.id, None)
        text = child.facts.get("failed", str(how))
        if child.attached:
            suspects = [] if how.status == 0 and not how.signal else [seq for begun in reading.begun for seq in begun.seqs]
            for ingress in self.family.of("ingress"):
                ingress.channel.send({"do": "dead", "worker": child.id, "suspects": suspects, "reason": text})
        worker = self.fleet.workers.get(child.id)
        if worker is not None and worker.life is not Life.DRAINING and not worker.quarantine:
            restarts = self.totals[child.job].restarts
            restarts[worker.slot] = restarts.get(worker.slot, 0) + 1
        if self.state == "starting":
            self.fail(AppError(f"a worker ended before it was ready: {text}", where=f"job {child.job}", remedy="see the log"))
        killed = how.signal == signal.SIGKILL and worker is not None and worker.life is Life.ACTIVE
        self._decide(model.Exited(child.id, text, blameless=killed or bool(reading.counters["handled"])), now)

    def _prepare_ended(self, child: Child, how: Exit, _now: float) -> None:
        if child.facts.get("prepared") and self._unprepared:
            self._unprepared.pop(0)
            self._prepare_next()
        else:
            self.fail(AppError(f"making the tables ended the process: {how}", where=f"job {child.job}", remedy="see the log"))

    def _zygote_ended(self, _child: Child, how: Exit, now: float) -> None:
        """The twin takes over: it is the same loaded generation, whatever has become of the files."""
        if self.state == "stopping":
            return
        self.fail(AppError(f"the import of the app ended the process: {how}", remedy="correct what it does when it is imported"))
        events.log("zygote.died", str(how), level="error")
        for one in [one for one in self.family.members.values() if not one.pid]:
            self._unborn(one.id, "the zygote died")
        twin = self.family.one("twin")
        if twin is None:
            events.log("generation.lost", "zygote and twin are gone: workers that die are not replaced; restart", level="error")
            return
        twin.kind = "zygote"
        self._begin_twin()
        self._decide(model.Tick(), now)

    def _twin_ended(self, _child: Child, how: Exit, _now: float) -> None:
        if self.state != "stopping":
            events.log("twin.died", str(how), level="warning")
            self._respawns["twin"] = time.monotonic() + RESPAWN

    def _ingress_ended(self, _child: Child, how: Exit, now: float) -> None:
        if self.state == "stopping":
            return
        self.fail(UnavailableError(f"the ingress ended before it was ready: {how}", remedy="see the log"))
        events.log("ingress.died", f"{how}; what it held is asked for again by its clients", level="error")
        self._respawns["ingress"] = max(now, self._respawns.get("ingress at", 0.0))

    def _logger_ended(self, _child: Child, how: Exit, _now: float) -> None:
        if self._agenda.current != "ending the logger":
            self.fail(UnavailableError(f"the logger ended before it was ready: {how}", where="log"))
            self._respawns["logger"] = time.monotonic() + (0.0 if self.state == "running" else RESPAWN)

    def _replace(self, kind: str) -> None:
        if self.state == "stopping" and kind != "logger":
            return
        if kind == "twin":
            self._begin_twin()
        elif kind == "logger":
            self.logs.begin()
        else:
            self._begin_ingress()
            for ingress in self.family.of("ingress"):
                ingress.channel.send({"do": "open"})

    # --- what the model decides

    def _decide(self, event: model.Event, now: float) -> None:
        for effect in self.fleet.handle(event, now):
            match effect:
                case model.Spawn(worker, job, _slot, _generation, quarantine):
                    self._spawn(worker, job, "quarantine" if quarantine else "worker")
                case model.Activate(worker):
                    self._tell(worker, {"do": "activate"})
                    events.log("worker.active", worker=worker)
                case model.Drain(worker):
                    self._tell(worker, {"do": "drain"})
                case model.Kill(worker, stacks):
                    self._put_down(worker, stacks=stacks, now=now)
                case model.Note(name, worker, text):
                    events.log(name, text, level="warning", worker=worker)

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
            self._unborn(worker, "it never came to life")
        elif stacks and not (self._stop_at is not None and self._stop_at <= now):
            child.kill(signal.SIGABRT)
            child.kill(signal.SIGCONT)
            self._kills[worker] = now + AFTER_ABORT
        else:
            child.kill(signal.SIGKILL)

    def _spawn(self, child_id: str, job: str, role: Any) -> None:
        now = time.monotonic()
        zygote = self.family.one("zygote")
        if zygote is None or self._births is None:
            self._decide(model.SpawnFailed(child_id, "there is no zygote"), now)
            return
        log = self.logs.pipe(child_id, job, child_id)
        child = self._births.worker(zygote, child_id, job, role, self.entries, log.write, now)
        log.adopt()
        if child is None:
            self._unborn(child_id, "the zygote cannot be told")

    def _unborn(self, child_id: str, reason: str) -> None:
        child = self.family.unborn(child_id)
        if child is None:
            return
        if child.attached:
            for ingress in self.family.of("ingress"):
                ingress.channel.send({"do": "dead", "worker": child_id, "suspects": [], "reason": reason})
        if child.kind == "worker":
            self._decide(model.SpawnFailed(child_id, reason), time.monotonic())
        elif child.kind == "twin":
            self._respawns["twin"] = time.monotonic() + RESPAWN
        else:
            self.fail(AppError(f"a process could not be made: {reason}", where=f"job {child.job}"))

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
            if worker is None or worker.life is not Life.ACTIVE or child.id in self._kills:
                continue
            reading = view.reading(child, now)
            silent = now - max(reading.heartbeat_ns / view.NS, worker.since)
            if silent > HEARTBEATS_MISSED * self._beat_of(child.job):
                self._decide(model.Hung(child.id, f"its loop has not turned for {silent:.1f} s"), now)

    def _beat_of(self, job: str) -> float:
        assert self.configuration is not None
        return self.configuration.jobs[job].options.heartbeat

    # --- small things

    def _execute(self, kind: str, launch: Any, closing: int = -1) -> Child:
        return self.logs.execute(self._name(kind), launch, closing)

    def _name(self, kind: str) -> str:
        self._numbers += 1
        return f"{kind}.{self._numbers}"

    def status(self) -> Answer:
        """What `status --json` prints."""
        now = time.monotonic()
        jobs = []
        if self.configuration is not None:
            jobs = view.jobs(self.configuration.jobs, self.fleet, self.family.members, self.entries, self.totals, now)
        return {
            "name": self.options.name,
            "state": self.state,
            "pid": self.ground.pid,
            "generation": self.fleet.generation,
            "uptime_s": round(now - self.started, 3),
            "version": self.ground.version,
            **({"step": self._agenda.current} if self.state != "running" else {}),
            "log_lines_lost": self.logs.lost,
            "jobs": jobs,
            "programs": [],
        }

    def retry_letters(self, job: str) -> bool:
        """Ask one worker of the job to look for letters; False when none is active."""
        for child in self.family.of("worker"):
            worker = self.fleet.workers.get(child.id)
            if child.job == job and worker is not None and worker.life is Life.ACTIVE and not worker.quarantine:
                return child.channel.send({"do": "retry-letters"})
        return False
