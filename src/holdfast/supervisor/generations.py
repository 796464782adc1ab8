"""The generations that are there: the one that serves, the one that is being rolled out, and their zygotes with their twins.

What runs changes only by a reload: while a zygote or its twin lives, a replacement is the loaded generation, whatever the files say. When
both are gone the files are imported again, and count only if they still hold what was loaded; else the generation is lost.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from typing import TYPE_CHECKING

from holdfast.linux.channel import Packet
from holdfast.model import fleet_events as model
from holdfast.model.options import DaemonOptions
from holdfast.supervisor.entries import limits
from holdfast.supervisor.family import Child
from holdfast.supervisor.generation import Generation
from holdfast.supervisor.loading import import_application, prepare_next, use_drivers
from holdfast.supervisor.state import GenerationsState
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor


class Generations:
    """By number. `current` serves; while another is rolled out it is the one before."""

    def __init__(self, supervisor: Supervisor, first: Generation) -> None:
        self._supervisor = supervisor
        self.current = first
        self.known = {first.number: first}
        self._newest = first.number

    def of(self, child: Child) -> Generation | None:
        """The generation of this child's code; None when it is not needed any more."""
        return self.known.get(child.generation)

    def add(self, generation: Generation) -> None:
        """A generation that is about to be loaded."""
        self.known[generation.number] = generation

    def drop(self, generation: Generation) -> None:
        """A generation that came to nothing."""
        self.known.pop(generation.number, None)

    def next_number(self) -> int:
        """The number of the generation that comes."""
        self._newest += 1
        return self._newest

    def loaded(self, zygote: Child, packet: Packet) -> None:
        """A zygote has imported its application."""
        generation = self.of(zygote)
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
            use_drivers(self._supervisor, generation)
            self.make_twin(generation)
            self._supervisor.decide(model.Tick())

    def prepared(self, child: Child) -> None:
        """The tables of a job are there."""
        generation = self.of(child)
        if generation is not None and child.job in generation.unprepared:
            generation.unprepared.remove(child.job)
            prepare_next(self._supervisor, generation)

    def make_twin(self, generation: Generation) -> None:
        """Let the zygote fork its twin, which is the same loaded generation, for the case that it dies."""
        zygote = self._supervisor.family.zygote(generation.number)
        if zygote is None or any(twin.generation == generation.number for twin in self._supervisor.family.of("twin")):
            return
        name = self._supervisor.name("twin")
        log = self._supervisor.logs.pipe(name, "", "twin")
        self._supervisor.births.twin(generation, zygote, name, log.write, time.monotonic())
        log.adopt()

    def replace_zygote(self, generation: Generation) -> None:
        """The twin takes over. If it is gone too, the files may still hold what was loaded; if they do not, the generation is lost."""
        twin = next((twin for twin in self._supervisor.family.of("twin") if twin.generation == generation.number and twin.pid), None)
        if twin is not None:
            twin.kind = "zygote"
            self.make_twin(generation)
            self._supervisor.decide(model.Tick())
        elif generation.digest and not generation.lost:
            generation.lost = True
            import_application(self._supervisor, generation)
        else:
            self._lose(generation)

    def _lose(self, generation: Generation) -> None:
        generation.lost = True
        text = "zygote and twin are gone, and the files have changed since: workers that die are not replaced; reload"
        events.log("generation.lost", text, level="error", generation=generation.number)

    def accept(self, generation: Generation) -> None:
        """This generation serves from here on."""
        before, self.current = self.current.options, generation
        self._supervisor.ground = dataclasses.replace(self._supervisor.ground, options=generation.options)
        self._supervisor.logs.ground = self._supervisor.ground
        self._supervisor.watch.sooner(time.monotonic())
        for door in self._supervisor.entries.unwanted(generation.jobs):
            if door.job in generation.jobs:
                self._supervisor.tell_ingress({"do": "retire", "door": door.id})
                self._supervisor.entries.give_up([door], served=True)
        for name, job in generation.jobs.items():
            self._supervisor.tell_ingress({"do": "limits", "job": name, "limits": limits(job.options)})
        if _log_form(before) != _log_form(generation.options):
            self._supervisor.logs.begin_anew()

    def state(self) -> GenerationsState:
        """All of them, for the next program."""
        return GenerationsState(list(self.known.values()), self.current.number, self._newest)

    def restore(self, state: GenerationsState) -> None:
        """Go on with what was loaded and resolved then, whatever the files say now."""
        self.known = {one.number: one for one in state.known}
        self.current, self._newest = self.known[state.current], state.newest

    def let_old_ones_go(self) -> None:
        """End the zygotes that nobody is going to ask for a worker."""
        if self._supervisor.state != "running":
            return
        candidate = self._supervisor.reloads.candidate()
        needed = self._supervisor.fleet.generations() | {self.current.number} | ({candidate.number} if candidate is not None else set())
        for number in self.known.keys() - needed:
            del self.known[number]
        for child in (*self._supervisor.family.of("zygote"), *self._supervisor.family.of("twin")):
            if child.generation not in self.known and not child.facts.get("leaving"):
                self.let_go(child)

    def let_go(self, child: Child) -> None:
        """A zygote, a twin or a `prepare` run is not needed any more."""
        child.facts["leaving"] = True
        if not child.pid:
            self._supervisor.family.unborn(child.id)
        elif child.kind == "prepare" or not child.channel.send({"do": "leave"}):
            child.kill(signal.SIGKILL)


def _log_form(options: DaemonOptions) -> tuple[str, str, str]:
    return options.log, options.log_format, options.log_level
