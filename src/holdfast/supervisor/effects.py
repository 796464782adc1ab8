"""What the fleet wants done, done: workers are asked for, told, ended; verdicts go to the reload that waits for them."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from holdfast.errors import AppError
from holdfast.linux.channel import Packet
from holdfast.model import fleet_events as model
from holdfast.model.spec import Role
from holdfast.supervisor.generation import Generation
from holdfast.supervisor.reload import Reload
from holdfast.supervisor.settings_reload import catch_up
from holdfast.supervisor.state import EffectsState
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor

AFTER_ABORT = 5.0  # seconds for the stacks of a hung worker; ABRT itself ends it, once it has written them


class Effects:
    """`kills` are workers that have been shown ABRT, and when KILL follows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.kills: dict[str, float] = {}
        self._removing: set[str] = set()  # jobs for which nothing comes in any more, and that are not gone yet

    def advance(self, now: float) -> None:
        """Kill those whose time is over."""
        members = self._supervisor.family.members
        for worker_id in [name for name, at in self.kills.items() if at <= now]:
            del self.kills[worker_id]
            if worker_id in members:
                members[worker_id].kill(signal.SIGKILL)

    def decide(self, event: model.Event) -> None:
        """Let the fleet take the event, and do what it wants."""
        now = time.monotonic()
        for effect in self._supervisor.fleet.handle(event, now):
            match effect:
                case model.Spawn():
                    self._spawn_worker(effect)
                case model.Activate(worker):
                    self._tell(worker, {"do": "activate"})
                    self._supervisor.watch.activated(worker)
                    events.log("worker.active", worker=worker)
                    catch_up(self._supervisor)
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
        running = self._supervisor.reloads.running
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
        child = self._supervisor.family.members.get(worker)
        if child is not None:
            child.channel.send(packet)

    def _put_down(self, worker: str, *, stacks: bool, now: float) -> None:
        """ABRT shows the stacks of all threads, CONT wakes a stopped process for it, KILL follows."""
        child = self._supervisor.family.members.get(worker)
        if child is None:
            return
        if not child.pid:
            self.unborn(worker, "it never came to life")
        elif stacks and not (self._supervisor.stop_at is not None and self._supervisor.stop_at <= now):
            child.kill(signal.SIGABRT)
            child.kill(signal.SIGCONT)
            self.kills[worker] = now + AFTER_ABORT
        else:
            child.kill(signal.SIGKILL)

    def _spawn_worker(self, wanted: model.Spawn) -> None:
        supervisor = self._supervisor
        generation = supervisor.generations.known.get(wanted.generation)
        zygote = supervisor.family.zygote(wanted.generation)
        if zygote is None or generation is None or generation.lost:
            self.decide(model.SpawnFailed(wanted.worker, "there is no zygote"))
            return
        log = supervisor.logs.pipe(wanted.worker, wanted.job, wanted.worker)
        role: Role = "quarantine" if wanted.quarantine else "worker"
        now = time.monotonic()
        child = supervisor.births.worker(generation, zygote, wanted.worker, wanted.job, role, log.write, now, wanted.slot)
        log.adopt()
        if child is None:
            self.unborn(wanted.worker, "the zygote cannot be told")

    def prepare(self, generation: Generation, job: str) -> None:
        """Make a `prepare` run of a job."""
        zygote = self._supervisor.family.zygote(generation.number)
        name = self._supervisor.name("prepare")
        if zygote is None:
            self._supervisor.trouble(generation.number, AppError("there is no zygote", where=f"job {job}"))
            return
        log = self._supervisor.logs.pipe(name, job, name)
        child = self._supervisor.births.worker(generation, zygote, name, job, "prepare", log.write, time.monotonic())
        log.adopt()
        if child is None:
            self.unborn(name, "the zygote cannot be told")

    def unborn(self, child_id: str, reason: str) -> None:
        """A child that was asked for will never be."""
        child = self._supervisor.family.unborn(child_id)
        if child is None:
            return
        if child.attached:
            self._supervisor.tell_ingress({"do": "dead", "worker": child_id, "suspects": [], "reason": reason})
        if child.kind == "worker":
            self.decide(model.SpawnFailed(child_id, reason))
        elif child.kind == "twin":
            self._supervisor.respawn("twin")
        else:
            self._supervisor.trouble(child.generation, AppError(f"a process could not be made: {reason}", where=f"job {child.job}"))

    def _remove(self, job: str) -> None:
        """Nothing comes in for the job any more; once what is held is done, its workers go."""
        self._removing.add(job)
        doors = [door for door in self._supervisor.entries.doors.values() if door.job == job]
        told = self._supervisor.tell_ingress({"do": "remove", "job": job}) if doors else False
        self._supervisor.entries.give_up(doors, served=told)
        if not told:
            self.decide(model.Retire(job))

    def state(self) -> EffectsState:
        """What is under way, for the next program."""
        return EffectsState(self.kills, self._removing)

    def restore(self, state: EffectsState) -> None:
        """Go on with it."""
        self.kills, self._removing = state.kills, state.removing

    def nothing_to_remove(self) -> bool:
        """Whether the jobs that are not wanted any more are gone."""
        self._removing &= self._supervisor.fleet.jobs.keys()
        return not self._removing

    def remove_now(self) -> None:
        """Wait for nothing any more."""
        for job in sorted(self._removing):
            self.decide(model.Retire(job))
