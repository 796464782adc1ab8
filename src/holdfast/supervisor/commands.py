"""Commands, by whichever mouth they come: the control socket and signals are the same few verbs."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import Any

from holdfast.control.server import Client, ControlServer, bind
from holdfast.linux.privileges import as_user
from holdfast.model import fleet_events as model
from holdfast.supervisor.daemon import Supervisor
from holdfast.supervisor.instance import usable
from holdfast.supervisor.reload import Asker
from holdfast.supervisor.report import Report
from holdfast.supervisor.state import ClientState, ServerState
from holdfast.telemetry import events


class Commands:
    """Takes what is asked and answers it, at once or when it is so far."""

    _supervisor: Supervisor

    def __init__(self, report: Report) -> None:
        self._report = report
        self._waiting: list[int] = []
        self._server: ControlServer | None = None
        self._interrupts = 0
        self._reported = False

    def serve(self, supervisor: Supervisor) -> None:
        """Command this one from here on: take signals, open the control socket, for root and for whoever started us.

        NoRightsError when it cannot be opened.
        """
        self._supervisor = supervisor
        supervisor.loop.take_signals()
        ground, instance = supervisor.ground, supervisor.ground.instance
        with usable(os.path.join(instance.run_dir, f"{instance.name}.sock")), as_user(ground.identity):
            listener = bind(instance.run_dir, instance.name)
        self._serve_at(listener)

    def _serve_at(self, listener: socket.socket) -> ControlServer:
        server = self._server = ControlServer(listener, frozenset({0, os.geteuid()}), self._asked, self._watch)
        self._supervisor.loop.watch(listener.fileno(), self._accept)
        return server

    def state(self) -> ServerState:
        """The control socket and all who are connected, for the next program."""
        assert self._server is not None
        clients = [
            ClientState(fd, one.deadline, bytes(one.received), bytes(one.unsent), one.asked, one.finished)
            for fd, one in self._server.clients.items()
        ]
        return ServerState(self._server.listener.fileno(), clients, self._interrupts)

    def restore(self, state: ServerState, supervisor: Supervisor) -> None:
        """Go on serving the same connections. Signals are not taken yet."""
        self._supervisor, self._interrupts, self._reported = supervisor, state.interrupts, True
        server = self._serve_at(_socket(state.listener))
        for one in state.clients:
            client = Client(_socket(one.fd), one.deadline, bytearray(one.received), bytearray(one.unsent), one.asked, one.finished)
            server.adopt(client, time.monotonic())

    def asker(self, fd: int) -> Asker:
        """Whoever is connected there; -1 is a signal."""
        if fd < 0:
            return Asker()
        return Asker(lambda text: self._answer(fd, {"progress": text}), lambda answer: self._answer(fd, answer), fd)

    def next_deadline(self) -> float | None:
        """When somebody has been silent for too long."""
        return self._server.next_deadline() if self._server is not None else None

    def overdue(self) -> None:
        """Drop those who have been silent for too long."""
        if self._server is not None:
            self._server.overdue(time.monotonic())

    def concluded(self, answer: dict[str, Any]) -> None:
        """The start has come to its verdict: tell everybody who waits for it."""
        if not self._reported:
            self._reported = True
            self._report.verdict(answer)
        waiting, self._waiting = self._waiting, []  # an answer ends its client, who is then taken off the list
        for fd in waiting:
            self._answer(fd, answer)

    def close(self) -> None:
        """Listen no more, then say good-bye to those who are there: whoever comes back at once finds nobody, not somebody who leaves."""
        if self._server is not None:
            self._supervisor.loop.forget(self._server.listener.fileno())
            self._server.listener.close()
            for fd in list(self._server.clients):
                self._server.close(fd)

    def signalled(self, number: int) -> None:
        """A signal is the abbreviation of a command."""
        if number == signal.SIGCHLD:
            self._supervisor.family.reap()
        elif number in (signal.SIGTERM, signal.SIGINT):
            self._interrupts += 1
            self._supervisor.stop(now=self._interrupts > 1)
        elif number == signal.SIGUSR1:
            self._supervisor.logs.reopen()
        elif number == signal.SIGHUP:
            self._supervisor.reloads.ask(Asker())
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            self._scale_by(1 if number == signal.SIGTTIN else -1)
        elif number == signal.SIGUSR2:
            self._supervisor.reloads.ask_upgrade(Asker())

    def _scale_by(self, difference: int) -> None:
        """TTIN and TTOU: one worker more or less, where it is clear of which job."""
        jobs = self._supervisor.current.jobs
        if len(jobs) != 1:
            events.log("signal.ignored", "TTIN and TTOU are for daemons with one job; use 'scale JOB N'", level="warning")
            return
        (name,) = jobs
        answer = self._scale(name, self._supervisor.slots(name) + difference)
        if answer["exit"]:
            events.log("signal.ignored", str(answer["error"]), level="warning")

    def _scale(self, job: str, processes: int) -> dict[str, Any]:
        supervisor = self._supervisor
        if job not in supervisor.current.jobs:
            return {"exit": 2, "error": f"there is no job '{job}'; the jobs are {', '.join(supervisor.current.jobs)}"}
        if processes < 0:
            return {"exit": 2, "error": f"{job} cannot have {processes} workers"}
        if supervisor.state != "running" or supervisor.fleet.rollout is not None:
            return {"exit": 1, "error": "a reload is under way" if supervisor.state == "running" else f"the daemon is {supervisor.state}"}
        before = supervisor.slots(job)
        supervisor.decide(model.Scale(job, processes))
        return {"exit": 0, "result": {"job": job, "before": before, "processes": processes}}

    def _accept(self) -> None:
        assert self._server is not None
        self._server.accept(time.monotonic())

    def _watch(self, fd: int, write: bool | None) -> None:
        loop = self._supervisor.loop
        if write is None:
            loop.forget(fd)
            if fd in self._waiting:
                self._waiting.remove(fd)
            return
        assert self._server is not None
        server = self._server
        loop.watch(fd, lambda: server.ready(fd), write=write)

    def _answer(self, fd: int, answer: dict[str, Any]) -> None:
        if self._server is not None:
            self._server.send(fd, answer)

    def _asked(self, fd: int, request: dict[str, Any]) -> None:
        handler = getattr(self, f"_do_{str(request['verb']).replace('-', '_')}", None)
        if handler is None:
            self._answer(fd, {"exit": 2, "error": f"unknown verb {request['verb']!r}"})
        else:
            handler(fd, request)

    def _do_status(self, fd: int, _request: dict[str, Any]) -> None:
        self._answer(fd, {"exit": 0, "result": self._supervisor.status()})

    def _do_wait(self, fd: int, _request: dict[str, Any]) -> None:
        verdict = self._supervisor.verdict
        if verdict is None:
            self._waiting.append(fd)
        else:
            self._answer(fd, verdict)

    def _do_stop(self, fd: int, request: dict[str, Any]) -> None:
        timeout = request.get("timeout")
        if timeout is not None and not isinstance(timeout, int | float):
            self._answer(fd, {"exit": 2, "error": "timeout is a number of seconds"})
            return
        self._supervisor.stop(now=bool(request.get("now")), timeout=timeout, then=lambda: self._answer(fd, {"exit": 0, "result": {}}))

    def _do_restart(self, fd: int, _request: dict[str, Any]) -> None:
        if self._supervisor.state != "running":
            self._answer(fd, {"exit": 1, "error": f"the daemon is {self._supervisor.state}"})
            return
        self._supervisor.restarting = True
        self._supervisor.stop()

    def _do_reload(self, fd: int, request: dict[str, Any]) -> None:
        supervisor = self._supervisor
        if supervisor.state != "running":
            self._answer(fd, {"exit": 1, "error": f"the daemon is {supervisor.state}"})
            return
        supervisor.reloads.ask(self.asker(fd), settings_only=bool(request.get("settings")))

    def _do_upgrade(self, fd: int, _request: dict[str, Any]) -> None:
        if self._supervisor.state != "running":
            self._answer(fd, {"exit": 1, "error": f"the daemon is {self._supervisor.state}"})
            return
        self._supervisor.reloads.ask_upgrade(self.asker(fd))

    def _do_scale(self, fd: int, request: dict[str, Any]) -> None:
        job, processes = request.get("job"), request.get("processes")
        if not isinstance(job, str) or not isinstance(processes, int) or isinstance(processes, bool):
            self._answer(fd, {"exit": 2, "error": "scale takes a job and a number of processes"})
            return
        self._answer(fd, self._scale(job, processes))

    def _do_stacks(self, fd: int, request: dict[str, Any]) -> None:
        self._supervisor.stacks.ask(lambda answer: self._answer(fd, answer), str(request.get("job") or ""))

    def _do_retry_letters(self, fd: int, request: dict[str, Any]) -> None:
        told = self._supervisor.retry_letters(str(request.get("job")))
        self._answer(fd, {"exit": 0, "result": {}} if told else {"exit": 1, "error": "no worker of this job is active"})


def _socket(fd: int) -> socket.socket:
    found = socket.socket(fileno=fd)
    found.setblocking(False)
    return found
