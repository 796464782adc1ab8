"""What a child of the zygote is born with: its specification, its channel, its log pipe, its board, its way to the ingress."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Mapping

from holdfast.linux.channel import to_memfd
from holdfast.model import board
from holdfast.model.job_options import JobConfig
from holdfast.model.options import DaemonOptions, JobOptions
from holdfast.model.spec import Role, WorkerSpec
from holdfast.supervisor import boards
from holdfast.supervisor.entries import Entries
from holdfast.supervisor.family import Child, Family


class Births:
    """Asks the zygote for children. Every descriptor that is handed over is closed here."""

    def __init__(self, family: Family, daemon: DaemonOptions, jobs: Mapping[str, JobConfig], settings_text: str | None) -> None:
        self._family = family
        self._daemon = daemon
        self._jobs = jobs
        self._settings_text = settings_text

    def worker(self, zygote: Child, child_id: str, job: str, role: Role, entries: Entries, log: int, now: float) -> Child | None:
        """Ask for a worker, or a run of `prepare`; None when the zygote cannot be told."""
        options = self._jobs[job].options
        if role == "quarantine":
            options = dataclasses.replace(options, threads=1, batch=1)
        child, theirs = self._family.expect(child_id, "prepare" if role == "prepare" else "worker", job, now)
        named: dict[str, int] = {"spec": self._spec(child_id, role, job, options, entries.epoch), "channel": theirs.fileno(), "log": log}
        sockets = [theirs]
        if role != "prepare":
            named["board"], child.board = boards.make("board", board.size(options.threads or 1, options.batch))
            if job in entries.sources:
                sockets.append(self._attach(child, role))
                named["data"] = sockets[-1].fileno()
        told = zygote.channel.send({"do": "spawn", "id": child_id, "fds": list(named)}, list(named.values()))
        for name in ("spec", "board"):
            if name in named:
                os.close(named[name])
        for one in sockets:
            one.close()
        return child if told else None

    def twin(self, zygote: Child, child_id: str, log: int, now: float) -> bool:
        """Ask the zygote for its twin; False when it cannot be told."""
        job = next(iter(self._jobs))
        _child, theirs = self._family.expect(child_id, "twin", "", now)
        spec = self._spec(child_id, "twin", job, self._jobs[job].options, 0)
        told = zygote.channel.send({"do": "spawn", "id": child_id, "fds": ["spec", "channel", "log"]}, [spec, theirs.fileno(), log])
        os.close(spec)
        theirs.close()
        return told

    def _attach(self, child: Child, role: Role) -> socket.socket:
        """Tell the ingress of the worker; the worker's end of their data channel."""
        ours, theirs = socket.socketpair()
        ingress = self._family.one("ingress")
        if ingress is not None:
            packet = {"do": "attach", "worker": child.id, "job": child.job, "quarantine": role == "quarantine"}
            child.attached = ingress.channel.send(packet, [ours.fileno()])
        ours.close()
        return theirs

    def _spec(self, child_id: str, role: Role, job: str, options: JobOptions, epoch: int) -> int:
        spec = WorkerSpec(
            id=child_id,
            role=role,
            job=job,
            cls=self._jobs[job].cls,
            generation=1,
            options=options,
            state_dir=self._daemon.state_dir,
            stop_timeout=self._daemon.stop_timeout,
            settings_path=self._daemon.settings,
            settings_text=self._settings_text,
            epoch=epoch,
        )
        return to_memfd("spec", json.dumps(spec.to_json()).encode())
