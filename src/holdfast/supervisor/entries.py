"""The ways in: listeners that the supervisor binds and keeps, and the ingress that serves them."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict

from holdfast.linux.privileges import Identity, as_user
from holdfast.model import tally
from holdfast.model.job_options import JobConfig
from holdfast.model.urls import SourceAddress
from holdfast.supervisor import boards
from holdfast.supervisor.family import Child
from holdfast.supervisor.listeners import bind_tcp, bind_unix

_LIMITS = ("in_flight", "in_flight_bytes", "in_flight_per_client", "max_message", "max_clients", "crash_limit")


class Entries:
    """What the ingress is told, again for each ingress: a new one has a new epoch and the same listeners."""

    def __init__(self, jobs: Mapping[str, JobConfig], identity: Identity | None) -> None:
        self.sources: dict[str, SourceAddress] = {name: job.source for name, job in jobs.items() if job.source is not None}
        self._jobs = jobs
        self._identity = identity
        self._rows = {name: row for row, name in enumerate(self.sources)}
        self._listeners: dict[str, socket.socket] = {}
        self._view = memoryview(bytes(tally.SIZE))
        self.epoch = 0
        self.listening: set[str] = set()

    def bind(self) -> None:
        """Bind every listener; UnavailableError or NoRightsError, naming the job, when one cannot be had."""
        for name, address in self.sources.items():
            if address.connect:
                continue
            if address.path:
                with as_user(self._identity):
                    self._listeners[name] = bind_unix(address.path)
            else:
                self._listeners[name] = bind_tcp(address.host, address.port)

    def begin(self) -> int:
        """A new ingress is coming: a new epoch, a new tally whose descriptor is the caller's."""
        self.epoch = secrets.randbits(62) | 1
        self.listening.clear()
        fd, self._view = boards.make("tally", tally.SIZE)
        return fd

    def introduce(self, ingress: Child) -> None:
        """Tell the ingress what to serve."""
        for name, address in self.sources.items():
            options = asdict(self._jobs[name].options)
            packet = {
                "do": "listen",
                "job": name,
                "row": self._rows[name],
                "transport": address.transport,
                "endpoint": self.endpoint(name),
                "connect": address.connect,
                "topics": list(address.topics),
                "limits": {key: options[key] for key in _LIMITS},
            }
            listener = self._listeners.get(name)
            ingress.channel.send(packet, [listener.fileno()] if listener is not None else [])

    def endpoint(self, name: str) -> str:
        """Where the job really listens: port 0 has become a number."""
        address, listener = self.sources[name], self._listeners.get(name)
        if listener is None or address.port or address.path:
            return address.endpoint
        return f"{address.endpoint.rpartition(':')[0]}:{listener.getsockname()[1]}"

    def tally(self, name: str) -> dict[str, int]:
        """What the ingress counts for this job just now."""
        return tally.read(self._view, self._rows[name])

    def close(self) -> None:
        """Serve nobody any more; only when no ingress is left."""
        for name, listener in self._listeners.items():
            listener.close()
            if path := self.sources[name].path:
                with as_user(self._identity):
                    if os.path.exists(path):
                        os.unlink(path)
        self._listeners.clear()
