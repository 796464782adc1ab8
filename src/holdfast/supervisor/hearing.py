"""What children say, and how they end: each word and each end has its method, and what follows from it is decided elsewhere."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from holdfast.errors import AppError, HoldfastError, UnavailableError
from holdfast.linux.channel import Packet, from_memfd
from holdfast.linux.process import Exit
from holdfast.model import fleet_events as model
from holdfast.model.life import Life
from holdfast.supervisor import view
from holdfast.supervisor.family import Child
from holdfast.supervisor.ingress_change import IngressChange
from holdfast.supervisor.reload import Reload
from holdfast.supervisor.settings_reload import SettingsReload
from holdfast.supervisor.upgrade import Upgrade
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor


class Hearing:
    """The words, by kind of child and verb: `_on_KIND_VERB`, or `_on_VERB` for all kinds."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def heard(self, child: Child, packet: Packet, fds: list[int]) -> None:
        """One packet of a child."""
        texts = [from_memfd(fd).decode(errors="replace") for fd in fds]
        word = str(packet.get("say")).replace("-", "_")
        handler = getattr(self, f"_on_{child.kind}_{word}", None) or getattr(self, f"_on_{word}", None)
        if handler is None:
            events.log("packet.unknown", f"{child.id} says {word!r}", level="warning")
        else:
            handler(child, packet, "".join(texts))

    # --- logger

    def _on_logger_ready(self, _child: Child, _packet: Packet, _text: str) -> None:
        self._supervisor.logs.ready = True

    def _on_logger_lost(self, _child: Child, packet: Packet, _text: str) -> None:
        supervisor = self._supervisor
        if not packet["lines"] and supervisor.state == "starting":
            supervisor.fail(
                UnavailableError(
                    f"the log {supervisor.options.log} cannot be written: {packet['reason']}",
                    where="log",
                    remedy="correct 'log' in [daemon]",
                )
            )
        supervisor.logs.lost += int(packet["lines"])

    def _on_logger_writing(self, _child: Child, _packet: Packet, _text: str) -> None:
        return

    # --- the new program, looked at before an upgrade

    def _on_check_fit(self, child: Child, packet: Packet, _text: str) -> None:
        child.facts["fit"] = str(packet["version"])

    def _check_ended(self, child: Child, how: Exit, _now: float) -> None:
        running = self._supervisor.reloads.running
        if isinstance(running, Upgrade):
            running.checked(child, how)

    # --- zygotes and what they make

    def _on_loaded(self, child: Child, packet: Packet, _text: str) -> None:
        self._supervisor.generations.loaded(child, packet)

    def _on_spawned(self, _child: Child, packet: Packet, _text: str) -> None:
        self._supervisor.family.born(str(packet["id"]), int(packet["pid"]))
        born = self._supervisor.family.members.get(str(packet["id"]))
        if born is not None and born.facts.pop("ready", False):
            self._supervisor.decide(model.Ready(born.id))
        self._supervisor.family.reap()

    def _on_spawn_failed(self, _child: Child, packet: Packet, _text: str) -> None:
        self._supervisor.effects.unborn(str(packet["id"]), str(packet["reason"]))

    def _on_twin(self, _child: Child, _packet: Packet, _text: str) -> None:
        return

    def _on_prepared(self, child: Child, _packet: Packet, _text: str) -> None:
        child.facts["prepared"] = True

    def _on_failed(self, child: Child, packet: Packet, text: str) -> None:
        kind = UnavailableError if packet.get("exit") == 5 else AppError
        error: HoldfastError = kind(str(packet["reason"]), where=f"job {child.job}" if child.job else "")
        if isinstance(error, AppError):
            error.trace = text
        events.log(f"{child.kind}.failed", str(packet["reason"]), level="error", job=child.job, worker=child.id, trace=text)
        child.facts["failed"] = str(packet["reason"])
        running = self._supervisor.reloads.running
        if child.kind == "worker" and isinstance(running, Reload) and running is not None:
            running.note_trace(text)
        if child.kind != "worker" or self._supervisor.state == "starting":
            self._supervisor.trouble(child.generation, error)

    # --- the ingress

    def _on_ingress_hello(self, child: Child, packet: Packet, _text: str) -> None:
        child.facts["digest"] = str(packet.get("digest", ""))

    def _on_ingress_failed(self, _child: Child, packet: Packet, _text: str) -> None:
        supervisor = self._supervisor
        events.log("ingress.failed", str(packet["reason"]), level="error", job=str(packet["job"]))
        candidate = supervisor.reloads.candidate()
        error = UnavailableError(str(packet["reason"]), where=f"job {packet['job']}, source")
        if isinstance(supervisor.reloads.running, IngressChange):
            supervisor.reloads.running.refuse(str(error))
            return
        supervisor.trouble(candidate.number if candidate is not None else supervisor.current.number, error)

    def _on_ingress_listening(self, _child: Child, packet: Packet, _text: str) -> None:
        self._supervisor.entries.listening.add(str(packet["door"]))

    def _on_ingress_retired(self, child: Child, packet: Packet, _text: str) -> None:
        change = self._supervisor.reloads.running
        if not self._is_former(child):
            self._supervisor.entries.retired(str(packet["door"]))
        elif isinstance(change, IngressChange):
            change.retired(str(packet["door"]))

    def _on_ingress_removed(self, child: Child, packet: Packet, _text: str) -> None:
        """Of two, the second one's word counts."""
        job = str(packet["job"])
        child.facts.setdefault("removed", []).append(job)
        if all(job in one.facts.get("removed", ()) for one in self._supervisor.family.of("ingress")):
            for one in self._supervisor.family.of("ingress"):
                one.facts["removed"].remove(job)
            self._supervisor.entries.removed(job)
            self._supervisor.decide(model.Retire(job))

    def _on_ingress_drained(self, child: Child, _packet: Packet, _text: str) -> None:
        child.facts["drained"] = True
        if self._is_former(child) and self._supervisor.state == "running":
            child.channel.send({"do": "leave"})

    def _on_suspects(self, child: Child, packet: Packet, _text: str) -> None:
        self._supervisor.decide(model.Suspects(str(packet["job"]), int(packet["count"]), self._is_former(child)))

    def _is_former(self, ingress: Child) -> bool:
        former = self._supervisor.entries.former
        return former is not None and former.ingress == ingress.id

    # --- workers

    def _on_ready(self, child: Child, _packet: Packet, _text: str) -> None:
        if child.pid:
            self._supervisor.decide(model.Ready(child.id))
        else:  # it is heard of when its zygote has told who it is
            child.facts["ready"] = True

    def _on_paused(self, child: Child, packet: Packet, _text: str) -> None:
        child.facts["paused"] = str(packet["reason"])
        child.facts["paused_since"] = packet.get("since")
        events.log("job.paused", str(packet["reason"]), level="warning", job=child.job, worker=child.id)

    def _on_outbox(self, child: Child, packet: Packet, _text: str) -> None:
        totals = self._supervisor.totals[child.job]
        trouble = str(packet.get("trouble", totals.outbox.get("trouble", "")))
        facts = {"messages": int(packet["messages"]), "oldest": packet.get("oldest"), "trouble": trouble}
        totals.outbox = facts if facts["messages"] else {}

    def _on_resumed(self, child: Child, _packet: Packet, _text: str) -> None:
        child.facts.pop("paused", None)
        events.log("job.resumed", job=child.job, worker=child.id)

    def _on_hung(self, child: Child, packet: Packet, _text: str) -> None:
        self._supervisor.decide(model.Hung(child.id, f"thread {packet.get('thread')} is over its time limit"))

    def _on_due(self, child: Child, packet: Packet, _text: str) -> None:
        self._supervisor.decide(model.Replace(child.id, str(packet.get("reason", ""))))

    def _on_drained(self, _child: Child, _packet: Packet, _text: str) -> None:
        return

    def _on_reloaded(self, child: Child, packet: Packet, _text: str) -> None:
        running = self._supervisor.reloads.running
        if isinstance(running, SettingsReload):
            running.taken(child, int(packet["id"]))

    def _on_reload_failed(self, child: Child, packet: Packet, text: str) -> None:
        events.log("settings.refused", str(packet["reason"]), level="error", job=child.job, worker=child.id, trace=text)
        running = self._supervisor.reloads.running
        if isinstance(running, SettingsReload):
            running.failed(child, str(packet["reason"]), text)

    # --- how children end

    def ended(self, child: Child, how: Exit) -> None:
        """A child was reaped."""
        getattr(self, f"_{child.kind}_ended")(child, how, time.monotonic())

    def _worker_ended(self, child: Child, how: Exit, now: float) -> None:
        supervisor = self._supervisor
        reading = view.reading(child, now)
        supervisor.family.end_left_by(child)
        supervisor.totals[child.job].add(reading)
        supervisor.effects.kills.pop(child.id, None)
        text = child.facts.get("failed", str(how))
        if child.attached:
            suspects = [] if how.status == 0 and not how.signal else [seq for begun in reading.begun for seq in begun.seqs]
            supervisor.tell_ingress({"do": "dead", "worker": child.id, "suspects": suspects, "reason": text})
        elif reading.begun and (how.status or how.signal):
            supervisor.births.accuse(child.job, [seq for begun in reading.begun for seq in begun.seqs], text)
        worker = supervisor.fleet.workers.get(child.id)
        if worker is not None and worker.life is not Life.DRAINING and not worker.quarantine:
            restarts = supervisor.totals[child.job].restarts
            restarts[worker.slot] = restarts.get(worker.slot, 0) + 1
        if supervisor.state == "starting":
            supervisor.fail(AppError(f"a worker ended before it was ready: {text}", where=f"job {child.job}", remedy="see the log"))
        worked = bool(reading.counters["handled"])
        away = "failed" in child.facts and how.status == UnavailableError.exit_status and not how.signal
        supervisor.decide(model.Exited(child.id, text, killed=how.signal == signal.SIGKILL, worked=worked, unavailable=away))

    def _prepare_ended(self, child: Child, how: Exit, _now: float) -> None:
        if child.facts.get("prepared"):
            self._supervisor.generations.prepared(child)
            return
        error = AppError(f"making the tables ended the process: {how}", where=f"job {child.job}", remedy="see the log")
        self._supervisor.trouble(child.generation, error)

    def _zygote_ended(self, child: Child, how: Exit, _now: float) -> None:
        """The twin takes over: it is the same loaded generation, whatever has become of the files."""
        supervisor = self._supervisor
        generation = supervisor.generations.of(child)
        if supervisor.state == "stopping" or generation is None or child.facts.get("leaving"):
            return
        if generation.declared is None:
            error = AppError(f"the import of the app ended the process: {how}", remedy="correct what it does when it is imported")
            supervisor.trouble(child.generation, error)
            return
        events.log("zygote.died", str(how), level="error", generation=child.generation)
        for one in [one for one in supervisor.family.members.values() if not one.pid and one.generation == child.generation]:
            supervisor.effects.unborn(one.id, "the zygote died")
        supervisor.generations.replace_zygote(generation)

    def _twin_ended(self, child: Child, how: Exit, _now: float) -> None:
        supervisor = self._supervisor
        if supervisor.state != "stopping" and supervisor.generations.of(child) is not None:
            events.log("twin.died", str(how), level="warning")
            supervisor.respawn("twin")

    def _ingress_ended(self, child: Child, how: Exit, now: float) -> None:
        supervisor = self._supervisor
        if supervisor.state == "stopping":
            return
        change = supervisor.reloads.running
        if self._is_former(child):
            events.log("ingress.gone", f"the one before: {how}", level="info" if child.facts.get("drained") else "error")
            supervisor.entries.forget_former()
            if isinstance(change, IngressChange):
                change.old_one_has_gone()
            supervisor.decide(model.Join())
            return
        if isinstance(change, IngressChange):
            change.refuse(f"it ended before it served: {how}")
        if "unwanted" in child.facts or (isinstance(change, IngressChange) and supervisor.entries.former is not None):
            return
        supervisor.fail(UnavailableError(f"the ingress ended before it was ready: {how}", remedy="see the log"))
        events.log("ingress.died", f"{how}; what it held is asked for again by its clients", level="error")
        supervisor.respawns["ingress"] = now

    def _logger_ended(self, _child: Child, how: Exit, _now: float) -> None:
        supervisor = self._supervisor
        if not supervisor.ending_logger:
            supervisor.fail(UnavailableError(f"the logger ended before it was ready: {how}", where="log"))
            supervisor.respawn("logger")
