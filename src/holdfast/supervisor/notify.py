"""Telling the service manager (sd_notify(3)), and feeding its watchdog. Never waits; that it cannot be told is logged once.

What is said when is decided in `holdfast.model.notify`. Nothing of it goes through an exec: each message has a socket of its own, and the
next program says how things stand by then, which is a reload or that it is ready.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.model.notify import NOBODY_WATCHES, Manager, Said, Standing, status_line, words
from holdfast.supervisor import view
from holdfast.telemetry import events

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor
    from holdfast.supervisor.ground import Ground


def manager_of(ground: Ground) -> Manager:
    """Who has started this supervisor in the foreground. One in the background, or with a guard, is nobody's main process."""
    return Manager.of(ground.environ, ground.pid) if ground.foreground and not ground.guard else Manager()


class Herald:
    """Tells one manager how things `stand`. `said` is what it knows; `next_beat` when its watchdog is to be fed."""

    def __init__(self, manager: Manager, stand: Callable[[], Standing]) -> None:
        self._manager = manager
        self._stand = stand
        self._warned = False
        self.said = Said()
        self.next_beat = NOBODY_WATCHES if manager.interval == NOBODY_WATCHES else 0.0
        if manager.flaw:
            self._warn(manager.flaw)

    def tell(self, now: float) -> None:
        """Say what is new. What cannot be said now is not said: the next look finds it again."""
        if not self._manager.address:
            return
        message, after = words(self.said, self._stand(), now)
        if not message or self._send(message):
            self.said = after

    def beat(self, now: float, behind: float) -> None:
        """Feed the watchdog; due at `next_beat`, twice in its interval, after a turn of the loop that has come to a good end.

        Not fed while the loop is `behind` (seconds) with what it has to do: then it turns, but does nothing.
        """
        half = self._manager.interval / 2
        if behind < half:
            self._send(["WATCHDOG=1"])
            self.next_beat = now + half
        else:
            events.log("watchdog.not-fed", f"something is {behind:.1f} s overdue", level="error")
            self.next_beat = now + half / 2

    def _send(self, message: list[str]) -> bool:
        address = self._manager.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
                sock.sendto("\n".join(message).encode(errors="replace"), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            self._warn(f"cannot tell the service manager at {address}: {error.strerror or error}")
            return False
        return True

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            events.log("notify.failed", text, level="warning")


def standing(supervisor: Supervisor) -> Standing:
    """How things stand with this one."""
    state, reloads = supervisor.state, supervisor.reloads
    return Standing(
        supervisor.ground.pid,
        state,
        restarting=supervisor.restarting,
        changing=reloads.running is not None,
        follows=reloads.waits,
        change=reloads.began,
        limit=supervisor.started + supervisor.options.start_timeout if supervisor.stop_at is None else supervisor.stop_at,
        status=_status(supervisor),
    )


def _status(supervisor: Supervisor) -> str:
    if supervisor.failure:
        return status_line("start failed", supervisor.failure)
    if supervisor.state != "running":
        return status_line("restarting" if supervisor.restarting else supervisor.state, supervisor.step)
    reloads, jobs = supervisor.reloads, view.looks(supervisor.jobs(), supervisor.fleet, supervisor.family.members)
    if reloads.running is not None:
        return status_line("reloading", reloads.step, jobs)
    refused = str(reloads.last.get("error", "")) if reloads.last is not None else ""
    return status_line(f"{supervisor.condition}, generation {supervisor.fleet.generation}", "", jobs, refused)
