"""Feeling the supervisor's pulse: the guard asks it something on its control socket now and then, and waits for any answer."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from holdfast.control.client import connect
from holdfast.errors import HoldfastError
from holdfast.model.recovery import Look, Silence

_CONNECT = 0.05  # seconds; a connection is made at once, unless too many wait for one that does not take them


class Pulse:
    """Of one supervisor that was ready. `fileno` is -1 while no answer is waited for."""

    def __init__(self, guarding: Mapping[str, Any], now: float) -> None:
        self._where = guarding["run_dir"], guarding["name"]
        self._silence = Silence(guarding["guard_patience"], now)
        self._question: socket.socket | None = None

    def fileno(self) -> int:
        return self._question.fileno() if self._question is not None else -1

    @property
    def next_look(self) -> float:
        """When `look` is due, in monotonic seconds."""
        return self._silence.next_look

    def hear(self) -> None:
        """Any answer will do, also the end of the connection: somebody lives there."""
        with contextlib.suppress(BlockingIOError):
            if self._question is not None:
                with contextlib.suppress(ConnectionResetError):
                    self._question.recv(1 << 16)
                self._answered()

    def look(self, now: float) -> bool:
        """Ask, or wait on; whether it is to be taken for hung."""
        self.hear()  # what has come while we were late
        self._silence, what = self._silence.look(now)
        if what is Look.ASK:
            self._ask()
        return what is Look.HUNG

    def close(self) -> None:
        """Ask nothing any more."""
        if self._question is not None:
            self._question.close()
            self._question = None

    def _ask(self) -> None:
        self.close()
        try:
            self._question = connect(*self._where, time.monotonic() + _CONNECT)
            self._question.setblocking(False)
            self._question.send(b'{"verb": "status"}\n', socket.MSG_NOSIGNAL)
        except (TimeoutError, BlockingIOError):
            return  # it does not even take connections
        except (HoldfastError, OSError):
            self._answered()  # nobody listens at that path: somebody has taken it away, which says nothing about the supervisor

    def _answered(self) -> None:
        self.close()
        self._silence = self._silence.answered()
