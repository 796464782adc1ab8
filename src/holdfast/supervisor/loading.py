"""Loading a generation: import its application, resolve its configuration, open its doors, make its tables. A start does it, and a reload.

Nothing of the generation that serves is touched; what fails is left behind by `abandon`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.model.configuration import require_runnable, resolve
from holdfast.model.spec import Declaration
from holdfast.model.urls import parse_store
from holdfast.supervisor.agenda import Step
from holdfast.supervisor.entries import Door
from holdfast.supervisor.generation import Generation
from holdfast.supervisor.inputs import secrets_as

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor


class Loading:
    """The steps from a generation's files to a generation whose workers may start."""

    def __init__(self, supervisor: Supervisor, generation: Generation, left: Callable[[], float], late: Callable[[], None]) -> None:
        self._supervisor = supervisor
        self.generation = generation
        self._left = left
        self._late = late
        self._new: list[Door] = []

    def steps(self) -> list[Step]:
        """In the order in which they can fail without harm."""
        generation, left, late = self.generation, self._left, self._late
        return [
            Step("importing the application", self._import, lambda: generation.declared is not None, left, late),
            Step("reading the configuration", self._resolve, lambda: True),
            Step("binding", self._bind, lambda: True),
            Step("opening the ingress", self._open_doors, self._all_listen, left, late),
            Step("preparing tables", self._prepare, lambda: not generation.unprepared, left, late),
            Step("starting the twin", lambda: self._supervisor.generations.make_twin(generation), lambda: True),
        ]

    def abandon(self) -> None:
        """Leave nothing of it behind, but what it has prepared in its stores."""
        supervisor = self._supervisor
        for door in self._new:
            for ingress in supervisor.family.of("ingress"):
                ingress.channel.send({"do": "retire", "door": door.id})
        supervisor.entries.give_up(self._new, served=bool(supervisor.family.of("ingress")))
        for kind in ("prepare", "zygote", "twin"):
            for child in supervisor.family.of(kind):
                if child.generation == self.generation.number:
                    supervisor.generations.let_go(child)

    def _import(self) -> None:
        import_application(self._supervisor, self.generation)

    def _resolve(self) -> None:
        generation, ground = self.generation, self._supervisor.ground
        assert generation.declared is not None
        declarations = [Declaration.from_json(one) for one in generation.declared["jobs"]]
        configuration = resolve(generation.inputs, declarations, generation.declared["default"], secrets_as(ground.identity))
        require_runnable(configuration)
        generation.configuration = configuration
        use_drivers(self._supervisor, generation)
        generation.unprepared = [name for name, job in configuration.jobs.items() if job.options.store]

    def _bind(self) -> None:
        self._new = self._supervisor.entries.bind(self.generation.jobs)

    def _open_doors(self) -> None:
        supervisor = self._supervisor
        ingress = supervisor.family.one("ingress")
        if ingress is not None:
            supervisor.entries.introduce(ingress, self._new)
        elif supervisor.entries.doors:
            supervisor.begin_ingress()

    def _all_listen(self) -> bool:
        return self._supervisor.entries.listening >= {door.id for door in self._new}

    def _prepare(self) -> None:
        prepare_next(self._supervisor, self.generation)


def import_application(supervisor: Supervisor, generation: Generation) -> None:
    """Start a zygote that imports what the files hold now."""
    modest = supervisor.state == "running"  # others serve meanwhile
    boot = {
        "app": generation.options.app,
        "directory": generation.inputs.directory,
        "generation": generation.number,
        "settings_path": generation.options.settings,
        "settings_text": generation.settings_text,
        "allow_threads": 'spawn = "exec"' in (generation.inputs.toml_text or ""),  # the class's own word comes too late
        "preload": [],
        "modest": modest,
    }
    launch = supervisor.ground.launch("zygote", boot, generation.inputs.directory, options=generation.options)
    supervisor.execute("zygote", dataclasses.replace(launch, modest=modest)).generation = generation.number


def use_drivers(supervisor: Supervisor, generation: Generation) -> None:
    """Let the zygote import what the configuration asks for, before it forks anybody."""
    zygote = supervisor.family.zygote(generation.number)
    if zygote is not None:
        options = [job.options for job in generation.jobs.values()]
        urls = [url for one in options for url in (one.source, one.outbox, one.dead_letter or "")]
        sources = {url.partition("://")[0].lower() for url in urls if "://" in url}
        stores = {parse_store(one.store).scheme for one in options if one.store}
        zygote.channel.send({"do": "use", "schemes": sorted(sources | stores)})


def prepare_next(supervisor: Supervisor, generation: Generation) -> None:
    """Make the tables of the next job that has some."""
    if generation.unprepared:
        supervisor.effects.prepare(generation, generation.unprepared[0])
