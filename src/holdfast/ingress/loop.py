"""The ingress: one thread, one loop, all jobs of the daemon whose messages enter here.

A life: `listen` for each door of each job, `open` when all jobs are ready, then work; `drain` (nothing new is read; what clients
have sent and we have not read stays in ZeroMQ), `leave`. Without a supervisor, or when somebody sends it TERM, the ingress does
the last two by itself. When another ingress takes its place it hears `retire-all`: it serves those who are there until they leave.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import zmq

from holdfast.ingress.door import LINGER_MS, PARKED_TICK, Door
from holdfast.ingress.intake import Intake, Shared
from holdfast.ingress.reactor import Reactor
from holdfast.ingress.request import Limits, Listen
from holdfast.ingress.sockets import affordable, close_all
from holdfast.linux.channel import Channel, Packet
from holdfast.telemetry import events

LINGER = 1.0  # how long answers may take to leave at the end


class Ingress:
    """Obeys the supervisor's packets; `run` returns when it is time to exit with status 0."""

    def __init__(self, channel: Channel, stop_timeout: float, board: memoryview) -> None:
        self._channel = channel
        self._stop_timeout = stop_timeout
        self._reactor = Reactor()
        self._shared = Shared(zmq.Context(), self._reactor, itertools.count(1), self._say, board)
        self._intakes: dict[str, Intake] = {}
        self._reading = False
        self._retiring = False  # another ingress has taken our place
        self._drain_until: float | None = None  # set while draining: what is due later than this is not waited for
        self._said_drained = False
        self._alone = False  # nobody tells us to leave any more
        self._left = False
        self._commands: dict[str, Callable[[Packet, list[int]], None]] = {
            "listen": self._listen,
            "limits": self._limits,
            "retire": self._retire,
            "retire-all": self._retire_all,
            "remove": self._remove,
            "open": self._open,
            "attach": self._attach,
            "dead": self._dead,
            "drain": self._drain,
            "leave": self._leave,
        }
        self._reactor.watch(channel.fileno(), self._obey)

    def run(self) -> None:
        """Turn until the end."""
        while not self._left:
            self._reactor.turn(self._timeout())
            now = time.monotonic()
            for intake in list(self._intakes.values()):
                intake.turn(now)
                if intake.is_over(now):
                    self._forget(intake)
            if self._drain_until is not None:
                self._look_for_the_end(now)
            elif self._retiring and all(intake.has_nothing() for intake in self._intakes.values()):
                self._drained()
        self._close()

    def watch_signals(self, fd: int, told: Callable[[], bool]) -> None:
        """Drain and leave when `told` says so, asked whenever `fd` can be read."""
        self._reactor.watch(fd, lambda _happened: self._go_alone("told to by a signal") if told() else None)

    def _timeout(self) -> float | None:
        now = time.monotonic()
        waits = [intake.timeout(now) for intake in self._intakes.values()]
        if self._alone and self._drain_until is not None:
            waits.append(max(0.0, self._drain_until - now))
        return min((wait for wait in waits if wait is not None), default=None)

    # The supervisor's words

    def _obey(self, _happened: int) -> None:
        try:
            while not self._left and (received := self._channel.receive()) is not None:
                packet, fds = received
                self._command(packet, fds)
        except EOFError:
            self._reactor.forget(self._channel.fileno())
            self._go_alone("the supervisor is gone")

    def _command(self, packet: Packet, fds: list[int]) -> None:
        command = self._commands.get(str(packet.get("do")))
        if command is None:
            events.log("ingress.unknown", f"unknown command {packet.get('do')!r}", "warning")
            close_all(fds)
            return
        command(packet, fds)

    def _listen(self, packet: Packet, fds: list[int]) -> None:
        names = {"job": str(packet["job"]), "door": str(packet.get("door", packet["job"]))}
        try:
            self._make_door(Listen.from_packet(packet), fds[0] if fds else None)
        except (ValueError, OSError, zmq.ZMQError) as error:
            close_all(fds)
            events.log("ingress.failed", str(error), "error", **names)
            self._say({"say": "failed", **names, "reason": f"cannot listen on {packet.get('endpoint')}: {error}"})
            return
        events.log("ingress.listening", packet["endpoint"], **names)
        self._say({"say": "listening", **names})

    def _make_door(self, wanted: Listen, listener: int | None) -> None:
        if self._find(wanted.door) is not None:
            raise ValueError(f"there is a door {wanted.door!r} already")
        job, limits = wanted.job, wanted.limits
        intake = self._intakes.get(job) or Intake(job, wanted.row, limits, self._shared)
        intake.open_door(replace(wanted, limits=affordable(limits, self._granted(None), job)), listener)
        self._intakes[job] = intake
        intake.limit(limits, lambda door: affordable(limits, self._granted(door), job))

    def _granted(self, but: Door | None) -> int:
        """Descriptors that the clients of all other doors may come to use."""
        return sum(door.granted() for intake in self._intakes.values() for door in intake.doors if door is not but)

    def _find(self, name: str) -> tuple[Intake, Door] | None:
        return next(((intake, door) for intake in self._intakes.values() for door in intake.doors if door.name == name), None)

    def _limits(self, packet: Packet, _fds: list[int]) -> None:
        intake = self._intakes.get(packet["job"])
        if intake is not None:
            limits = Limits.from_packet(packet["limits"])
            intake.limit(limits, lambda door: affordable(limits, self._granted(door), packet["job"]))

    def _retire(self, packet: Packet, _fds: list[int]) -> None:
        found = self._find(packet["door"])
        if found is None:  # it never was, or it is closed: so the supervisor need not know which
            self._say({"say": "retired", "door": packet["door"]})
            return
        intake, door = found
        intake.retire([door], time.monotonic(), shut=True)
        door.reading = self._reading  # of one that was never open its clients are served too

    def _retire_all(self, _packet: Packet, _fds: list[int]) -> None:
        """Another ingress has our addresses. Its listeners are others than ours, and who connects is steered to them."""
        self._retiring = True
        for intake in self._intakes.values():
            intake.retire(intake.doors, time.monotonic(), shut=False)

    def _remove(self, packet: Packet, _fds: list[int]) -> None:
        intake = self._intakes.get(packet["job"])
        if intake is None:
            self._say({"say": "removed", "job": packet["job"]})
            return
        intake.remove(time.monotonic())

    def _forget(self, intake: Intake) -> None:
        intake.clear()
        if self._say({"say": "removed", "job": intake.job}):
            events.log("ingress.removed", job=intake.job)
            del self._intakes[intake.job]
            intake.close(LINGER_MS)

    def _open(self, _packet: Packet, _fds: list[int]) -> None:
        self._read(True)
        self._drain_until = None
        self._said_drained = False

    def _read(self, reading: bool) -> None:
        self._reading = reading
        for intake in self._intakes.values():
            intake.read(reading)

    def _attach(self, packet: Packet, fds: list[int]) -> None:
        intake = self._intakes.get(packet["job"])
        if intake is None or intake.has(packet["worker"]) or not fds:
            events.log("worker.refused", "no such job, or attached already", "error", job=packet["job"], worker=packet["worker"])
            close_all(fds)
            return
        intake.attach(packet["worker"], fds[0], bool(packet.get("quarantine", False)))

    def _dead(self, packet: Packet, _fds: list[int]) -> None:
        for intake in self._intakes.values():
            if intake.has(packet["worker"]):
                intake.dead(packet["worker"], packet.get("suspects", ()), packet.get("reason", ""))

    def _drain(self, _packet: Packet, _fds: list[int]) -> None:
        self._read(False)
        self._said_drained = False
        if self._drain_until is None:
            self._drain_until = time.monotonic() + self._stop_timeout

    def _leave(self, _packet: Packet, _fds: list[int]) -> None:
        self._left = True

    def _say(self, packet: dict[str, Any]) -> bool:
        heard = self._channel.send(packet)
        if not heard and not self._alone:
            events.log("ingress.unheard", f"the supervisor does not read: {packet}", "warning")
        return heard

    # The end

    def _go_alone(self, reason: str) -> None:
        """As `drain`, and then `leave`, within `stop_timeout`, since nobody is going to say so."""
        events.log("ingress.alone", reason, "warning")
        self._drain({}, [])
        self._alone = True

    def _look_for_the_end(self, now: float) -> None:
        """Say that all is drained, once.

        A retry that is due later than the stop can wait is not waited for. Its client gets no answer: FALSE would mean "not
        done, and not done later", and a client that hears nothing sends again.
        """
        until = self._drain_until or now
        if not any(intake.holding.unfinished(until) for intake in self._intakes.values()):
            self._drained()
        elif self._alone and (now >= until or not any(intake.has_workers() for intake in self._intakes.values())):
            self._left = True  # what is held can only be settled by workers, and redelivered at the supervisor's word

    def _drained(self) -> None:
        self._left = self._left or self._alone
        if self._said_drained:
            return
        events.log("ingress.drained", unanswered=sum(intake.holding.held for intake in self._intakes.values()))
        self._said_drained = self._say({"say": "drained"})

    def _close(self) -> None:
        """Flush what clients are still to be told, for LINGER seconds at most."""
        self._read(False)
        self._reactor.forget(self._channel.fileno())
        deadline = time.monotonic() + LINGER
        while time.monotonic() < deadline and any(intake.parked() for intake in self._intakes.values()):
            self._reactor.turn(PARKED_TICK)
            for intake in self._intakes.values():
                intake.turn(time.monotonic())
        for intake in self._intakes.values():
            intake.close(max(1, int((deadline - time.monotonic()) * 1000)))
        self._shared.context.destroy(0)
