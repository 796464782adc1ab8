"""Reloads: everything again from the files, as another generation, rolled out slot by slot; all new or all old (G5).

One at a time. What is asked for meanwhile becomes one reload that follows, so that the last one ends in the newest files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from holdfast.errors import HoldfastError, UnavailableError
from holdfast.model import fleet_events as model
from holdfast.model.changes import changes
from holdfast.model.slots import is_beside
from holdfast.supervisor.agenda import Agenda, Step
from holdfast.supervisor.generation import Generation, require_same_daemon
from holdfast.supervisor.ingress_change import IngressChange
from holdfast.supervisor.loading import Loading
from holdfast.supervisor.settings_reload import SettingsReload
from holdfast.supervisor.state import WaitingState
from holdfast.supervisor.upgrade import Upgrade
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor

Answer = dict[str, Any]
REMOVAL_LIMIT = 60.0


@dataclass(frozen=True, slots=True)
class Asker:
    """Somebody who waits for a verdict: a control connection, or a signal, which waits for nothing (-1)."""

    progress: Callable[[str], None] = lambda _text: None
    answer: Callable[[Answer], None] = lambda _answer: None
    client: int = -1


class Reloads:
    """The reload under way, and those who wait for the one that follows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._full: list[Asker] = []
        self._settings: list[Asker] = []
        self._upgrade: list[Asker] = []
        self._of_ingress: list[tuple[Asker, Answer]] = []
        self.ingress_digest = ""  # of the code that the ingress is to run, once an upgrade has asked for it
        self.running: Upgrade | Reload | SettingsReload | IngressChange | None = None
        self.last: Answer | None = None
        self.began = 0.0  # the newest one; monotonic seconds

    def ask(self, asker: Asker, *, settings_only: bool = False) -> None:
        """Reload; at once, or when what is under way has ended."""
        self._wait(asker, self._settings if settings_only else self._full)

    def ask_upgrade(self, asker: Asker) -> None:
        """Replace the program of the supervisor, then reload; a reload that waits too becomes part of that."""
        self._wait(asker, self._upgrade)

    def _wait(self, asker: Asker, waiting: list[Asker]) -> None:
        waiting.append(asker)
        if self.running is not None:
            asker.progress("another reload is under way; this one follows")

    def state(self) -> WaitingState:
        """Who waits, for the next program; those of the upgrade under way, too."""
        upgrading = self.running.askers if isinstance(self.running, Upgrade) else []
        upgrade, full, settings = ([one.client for one in row] for row in ([*upgrading, *self._upgrade], self._full, self._settings))
        return WaitingState(upgrade, full, settings, self.last)

    def restore(self, state: WaitingState, asker: Callable[[int], Asker], of_upgrade: Callable[[Asker], Asker]) -> None:
        """The upgrade is done, but for its reload. Who waits for a reload has it by the same."""
        self._full = [*(of_upgrade(asker(client)) for client in state.upgrade), *map(asker, state.full)]
        self._settings, self.last = [asker(client) for client in state.settings], state.last

    def upgraded(self, asker: Asker, answer: Answer) -> None:
        """The reload of an upgrade is done: the upgrade is too, unless the ingress is to be another one."""
        if self._other_ingress_is_due():
            self._of_ingress.append((asker, answer))
            return
        if self._other_ingress_is_wanted():
            answer["result"]["changes"].append("the ingress: later, when the clients of the one before it have left")
        asker.answer(answer)

    def _other_ingress_is_wanted(self) -> bool:
        """Whether the one that serves runs other code than the program brings along."""
        ingress = self._supervisor.family.one("ingress")
        return bool(self.ingress_digest) and ingress is not None and ingress.facts.get("digest", "") not in ("", self.ingress_digest)

    def _other_ingress_is_due(self) -> bool:
        """Never more than two of them."""
        beside = any(is_beside(number) for job in self._supervisor.fleet.jobs.values() for number in job.slots)
        return self._other_ingress_is_wanted() and len(self._supervisor.family.of("ingress")) == 1 and not beside

    def _ingress_changed(self, waiting: list[tuple[Asker, Answer]], failure: str) -> None:
        self.running = None
        if failure:
            self.ingress_digest = ""  # not before the next upgrade
        for asker, answer in waiting:
            if failure:
                asker.answer({"exit": 1, "error": f"framework upgraded, application reloaded, ingress kept: {failure}"})
            else:
                answer["result"]["changes"].append("the ingress")
                asker.answer(answer)

    def not_upgraded(self, state: WaitingState, asker: Callable[[int], Asker], reason: str) -> None:
        """The program is the old one still; who waits for a reload waits for that."""
        self.last = state.last
        self._full, self._settings = [asker(client) for client in state.full], [asker(client) for client in state.settings]
        self._ended([asker(client) for client in state.upgrade], {"exit": 1, "error": reason})

    def advance(self, now: float) -> None:
        """Begin what waits, go on with what is under way."""
        if self.running is None and self._supervisor.state == "running" and self.waits:
            self._begin(now)
            self.began = now
            self._supervisor.herald.tell(now)
        if self.running is not None:
            self.running.advance(now)

    def next_deadline(self) -> float | None:
        """When the reload under way is late with something."""
        return self.running.next_deadline() if self.running is not None else None

    @property
    def waits(self) -> bool:
        """Whether one is to begin as soon as none is under way."""
        return bool(self._upgrade or self._full or self._settings) or self._other_ingress_is_due()

    @property
    def step(self) -> str:
        """What the reload under way is doing."""
        return self.running.step if self.running is not None else ""

    def trouble(self, generation: int, error: HoldfastError) -> bool:
        """Something of this generation failed; True when a reload was it that failed."""
        if isinstance(self.running, Reload) and self.running.generation is not None and self.running.generation.number == generation:
            self.running.refuse(error)
            return True
        return False

    def candidate(self) -> Generation | None:
        """The generation that is being loaded or rolled out."""
        return self.running.generation if isinstance(self.running, Reload) else None

    def end(self, reason: str) -> None:
        """The daemon stops: nobody waits any more."""
        running = self.running.askers if self.running is not None else []
        askers = [*running, *(one for one, _ in self._of_ingress), *self._upgrade, *self._full, *self._settings]
        self.running, self._of_ingress, self._upgrade, self._full, self._settings = None, [], [], [], []
        for asker in askers:
            asker.answer({"exit": 1, "error": reason})

    def _begin(self, now: float) -> None:
        if not self._full and self._other_ingress_is_due():
            waiting, self._of_ingress = self._of_ingress, []
            self.running = IngressChange(self._supervisor, waiting, self._ingress_changed)
        elif self._upgrade:
            askers, self._upgrade = self._upgrade, []
            self.running = Upgrade(self._supervisor, askers, self._ended, now)
        elif self._full:
            askers, self._full, self._settings = [*self._full, *self._settings], [], []
            self.running = Reload(self._supervisor, askers, self._ended)
        else:
            askers, self._settings = self._settings, []
            self.running = SettingsReload(self._supervisor, askers, self._ended, now)

    def _ended(self, askers: list[Asker], answer: Answer) -> None:
        self.running = None
        done = answer["exit"] == 0
        self.last = {"at": round(time.time(), 3), "done": done, **({} if done else {"error": answer["error"]})}
        text = str(answer.get("error", "")) or "; ".join(answer["result"]["changes"]) or "loaded afresh"
        events.log("reload.done" if done else "reload.refused", text, level="info" if done else "error")
        for asker in askers:
            asker.answer(answer)


class Reload:
    """One reload, from reading to its verdict."""

    def __init__(self, supervisor: Supervisor, askers: list[Asker], ended: Callable[[list[Asker], Answer], None]) -> None:
        self._supervisor = supervisor
        self.askers = askers
        self._ended = ended
        self.generation: Generation | None = None
        self._loading: Loading | None = None
        self._began = time.monotonic()
        self._answer: Answer | None = None
        self._trace = ""
        self._over = False
        self._agenda = Agenda([Step("reading the files", self._read, lambda: True)], self._progress)
        events.log("reload.begun")

    @property
    def step(self) -> str:
        return self._agenda.current

    def next_deadline(self) -> float | None:
        return self._agenda.next_deadline()

    def advance(self, now: float) -> None:
        """Do what is due; what fails refuses the reload."""
        try:
            self._agenda.advance(now)
            if self._agenda.over() and self.generation is not None and self._loading is None:
                self._agenda = self._make_agenda(self.generation)
                self._agenda.advance(now)
        except HoldfastError as error:
            self.refuse(error)

    def progress(self, text: str) -> None:
        """Tell those who wait."""
        for asker in self.askers:
            asker.progress(text)

    _progress = progress

    def note_trace(self, trace: str) -> None:
        """A worker's traceback: the first one is shown with the verdict."""
        self._trace = self._trace or trace

    def refuse(self, error: HoldfastError) -> None:
        """It cannot go on. While workers roll, the fleet rolls back first, and its verdict ends this."""
        self.note_trace(getattr(error, "trace", ""))
        fleet = self._supervisor.fleet
        if fleet.rollout is not None and not fleet.rollout.failure:
            self._supervisor.decide(model.RollBack(str(error)))
        elif fleet.rollout is None and self._answer is None:
            self._end_with({"exit": 1, "error": str(error), **({"trace": self._trace} if self._trace else {})})

    def rolled_out(self) -> None:
        """The verdict: the new generation has proved itself."""
        supervisor, generation = self._supervisor, self.generation
        assert generation is not None
        changed = changes(supervisor.current, generation)
        supervisor.generations.accept(generation)
        self._answer = {"exit": 0, "result": {"generation": generation.number, "pid": supervisor.ground.pid, "changes": changed}}

    def rolled_back(self, reason: str) -> None:
        """The verdict: everything is as it was."""
        self._answer = {"exit": 1, "error": f"rolled back: {reason}", **({"trace": self._trace} if self._trace else {})}

    # --- the steps

    def _make_agenda(self, generation: Generation) -> Agenda:
        self._loading = Loading(self._supervisor, generation, self._time_left, self._late)
        steps = [
            *self._loading.steps(),
            Step("replacing workers", self._roll, lambda: self._answer is not None),
            Step(
                "removing jobs",
                lambda: None,
                self._supervisor.effects.nothing_to_remove,
                lambda: REMOVAL_LIMIT,
                self._supervisor.effects.remove_now,
            ),
            Step("", self._conclude, lambda: True),
        ]
        return Agenda(steps, lambda name: self.progress(name) if name else None)

    def _read(self) -> None:
        supervisor = self._supervisor
        inputs, options, settings_text = supervisor.read()
        require_same_daemon(supervisor.options, options)
        self.generation = Generation(supervisor.generations.next_number(), inputs, options, settings_text)
        supervisor.generations.add(self.generation)

    def _time_left(self) -> float:
        return self._began + self._supervisor.options.start_timeout - time.monotonic()

    def _late(self) -> None:
        limit = self._supervisor.options.start_timeout
        self.refuse(UnavailableError(f"not loaded within start_timeout, {limit:g} s: still {self.step}", remedy="see the log"))

    def _roll(self) -> None:
        supervisor, generation = self._supervisor, self.generation
        assert generation is not None
        supervisor.prepare_totals(generation)
        for ingress in supervisor.family.of("ingress"):
            ingress.channel.send({"do": "open"})
        supervisor.decide(model.Roll(generation.number, generation.plans(), generation.options.probation))

    def _conclude(self) -> None:
        assert self._answer is not None
        self._end_with(self._answer)

    def _end_with(self, answer: Answer) -> None:
        if self._over:
            return
        self._over = True
        if answer["exit"] and self._loading is not None:
            self._loading.abandon()
        if answer["exit"] and self.generation is not None:
            self._supervisor.generations.drop(self.generation)
        self._ended(self.askers, answer)
