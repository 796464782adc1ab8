"""What a child of the zygote is born with: its specification, its channel, its log pipe, its board, its way to the ingress."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import socket
from collections.abc import Sequence

from holdfast.linux.channel import to_memfd
from holdfast.model import board, recycling
from holdfast.model.blame import Blame
from holdfast.model.options import JobOptions
from holdfast.model.slots import BESIDE, is_beside
from holdfast.model.spec import Role, WorkerSpec
from holdfast.supervisor.boards import Memory
from holdfast.supervisor.entries import Entries
from holdfast.supervisor.family import Child, Family
from holdfast.supervisor.generation import Generation

_LONGEST_REASON = 200
_SUSPECTS_A_PACKET = 100


class Births:
    """Asks zygotes for children. Every descriptor that is handed over is closed here, but the board's."""

    def __init__(self, family: Family, entries: Entries) -> None:
        self._family = family
        self._entries = entries
        self._blame: dict[str, Blame] = {}

    def accuse(self, job: str, begun: Sequence[int], reason: str) -> None:
        """A worker that consumes a broker's queue died with these begun: let every other one know, and those to come."""
        suspects = self._blame.setdefault(job, Blame()).died(begun, reason[:_LONGEST_REASON])
        for start in range(0, len(suspects), _SUSPECTS_A_PACKET):
            for child in self._family.of("worker"):
                if child.job == job:
                    child.channel.send({"do": "blamed", "suspects": suspects[start : start + _SUSPECTS_A_PACKET]})

    def worker(
        self, generation: Generation, zygote: Child, child_id: str, job: str, role: Role, log: int, now: float, slot: int = 0
    ) -> Child | None:
        """Ask for a worker, or a run of `prepare`; None when the zygote cannot be told. The slot says for which ingress it is to work."""
        options = generation.jobs[job].options
        if role == "quarantine":
            options = dataclasses.replace(options, threads=1, batch=1)
        child, theirs = self._family.expect(child_id, "prepare" if role == "prepare" else "worker", job, now)
        child.generation = generation.number
        child.facts["settings"] = generation.settings_version
        limits = child.limits = recycling.draw(options, max(slot, 0) % BESIDE, max(options.processes, 1), random.random())
        most = limits.messages if role == "worker" else 0
        spec = self._spec(generation, child_id, role, job, options, most, former=is_beside(slot))
        named: dict[str, int] = {"spec": spec, "channel": theirs.fileno(), "log": log}
        sockets = [theirs]
        if role != "prepare":
            named["stacks"] = child.stacks = os.memfd_create("stacks", os.MFD_CLOEXEC)
            child.board = Memory.make("board", board.size(options.threads or 1, options.batch))
            named["board"] = child.board.fd
            if job in self._entries.jobs():
                sockets.append(self._attach(child, role, former=is_beside(slot)))
                named["data"] = sockets[-1].fileno()
        told = zygote.channel.send({"do": "spawn", "id": child_id, "fds": list(named)}, list(named.values()))
        os.close(named["spec"])
        for one in sockets:
            one.close()
        return child if told else None

    def twin(self, generation: Generation, zygote: Child, child_id: str, log: int, now: float) -> bool:
        """Ask the zygote for its twin; False when it cannot be told."""
        job = next(iter(generation.jobs))
        child, theirs = self._family.expect(child_id, "twin", "", now)
        child.generation = generation.number
        spec = self._spec(generation, child_id, "twin", job, generation.jobs[job].options)
        told = zygote.channel.send({"do": "spawn", "id": child_id, "fds": ["spec", "channel", "log"]}, [spec, theirs.fileno(), log])
        os.close(spec)
        theirs.close()
        return told

    def _attach(self, child: Child, role: Role, *, former: bool) -> socket.socket:
        """Tell the ingress of the worker; the worker's end of their data channel."""
        ours, theirs = socket.socketpair()
        before = self._entries.former
        ingress = self._family.members.get(before.ingress) if former and before is not None else self._family.one("ingress")
        if ingress is not None:
            packet = {"do": "attach", "worker": child.id, "job": child.job, "quarantine": role == "quarantine"}
            child.attached = ingress.channel.send(packet, [ours.fileno()])
        ours.close()
        return theirs

    def _spec(
        self,
        generation: Generation,
        child_id: str,
        role: Role,
        job: str,
        options: JobOptions,
        most_messages: int = 0,
        *,
        former: bool = False,
    ) -> int:
        if role == "prepare":  # tables and indexes take as long as a start may
            options = dataclasses.replace(options, timeout=max(options.timeout, generation.options.start_timeout))
        spec = WorkerSpec(
            id=child_id,
            role=role,
            job=job,
            cls=generation.jobs[job].cls,
            generation=generation.number,
            options=options,
            state_dir=generation.options.state_dir,
            stop_timeout=generation.options.stop_timeout,
            settings_path=generation.options.settings,
            settings_text=generation.settings_text,
            epoch=self._entries.epoch_of(former=former),
            blamed=tuple(self._blame[job].all()) if job in self._blame else (),
            most_messages=most_messages,
        )
        return to_memfd("spec", json.dumps(spec.to_json()).encode())
