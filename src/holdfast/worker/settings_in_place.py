"""New settings in a worker that is there: each handler thread takes them between two messages, or all of them keep the old ones.

The I/O loop says which settings count; every thread that has others takes those, when it is free. One whose `reload` raises makes
the old ones count again, for all. So going back is the same as going on, and a thread that was slow skips what is void already.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from holdfast.linux.channel import Channel, Packet, from_memfd
from holdfast.model.board import ThreadBoard
from holdfast.model.job import Job
from holdfast.telemetry import events
from holdfast.worker import settings
from holdfast.worker.saying import say, say_refused
from holdfast.worker.trace import reason_of, trace_of

Settings = Mapping[str, Any]
_NEITHER: Settings = {}  # what a thread has after a `reload` that raised half way


class SettingsInPlace:
    """Which settings count in this process, and which each of its threads has. Safe from any thread.

    `wake` wakes the I/O loop, `stir` the threads that wait for messages.
    """

    def __init__(self, first: Settings, threads: int, wake: Callable[[], None], stir: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._wake = wake
        self._stir = stir
        self._kept = self._counting = first
        self._has = [first] * threads
        self._asked: int | None = None
        self._going_back = False
        self._refusal: BaseException | None = None
        #: Set when the thread of this index should look up from whatever it waits for.
        self.stirred = [threading.Event() for _ in range(threads)]

    # For the I/O loop

    def hand_out(self, number: int, new: Settings) -> None:
        """These count from now on; `verdict` tells how that went."""
        self._count(number, new, back=False)

    def restore(self, number: int) -> None:
        """Those that were kept last count again."""
        self._count(number, self._kept, back=True)

    def keep(self) -> Settings:
        """There is no way back any more from those that count; returns them."""
        with self._lock:
            self._kept = self._counting
            return self._kept

    def verdict(self) -> tuple[int, BaseException | None] | None:
        """Once for each question: its number, and what the first `reload` that failed has raised. None while threads are on their way."""
        with self._lock:
            number = self._asked
            if number is None or (self._refusal is None and any(has is not self._counting for has in self._has)):
                return None
            self._asked = None
            return number, self._refusal

    def give_up(self) -> int | None:
        """The process drains: its threads will look no more. The number of the open question."""
        with self._lock:
            number, self._asked = self._asked, None
            return number

    def stir(self) -> None:
        """Make every thread look up."""
        for event in self.stirred:
            event.set()
        self._stir()

    # For the threads

    def behind(self, index: int) -> bool:
        """Whether this thread has other settings than those that count."""
        return self._has[index] is not self._counting

    def take(self, index: int, give: Callable[[Settings], None]) -> None:
        """Give this thread those that count."""
        new = self._counting
        self._has[index] = _NEITHER
        try:
            give(new)
        except BaseException as error:
            self._refused(index, new, error)
        else:
            self._has[index] = new
        self._wake()

    def _count(self, number: int, new: Settings, *, back: bool) -> None:
        with self._lock:
            self._asked, self._counting, self._going_back, self._refusal = number, new, back, None
        self.stir()

    def _refused(self, index: int, new: Settings, error: BaseException) -> None:
        with self._lock:
            if new is self._kept:
                self._has[index] = new  # there is nothing else to give it
            told = self._asked is not None and not self._going_back and self._refusal is None and new is self._counting
            if told:
                self._refusal = error
                self._counting = self._kept
        if not told:
            events.log("settings.not-taken", f"{reason_of(error)}\n{trace_of(error)}", level="error")
        self.stir()


class Attention:
    """What one handler thread looks up for while it waits: the drain, its activation, new settings."""

    def __init__(
        self, index: int, job: Job, in_place: SettingsInPlace, draining: threading.Event, board: ThreadBoard, timeout: float
    ) -> None:
        self._index = index
        self._job = job
        self._in_place = in_place
        self._draining = draining
        self._stirred = in_place.stirred[index]
        self._board = board
        self._timeout_ns = int(timeout * 1e9)
        self._owner = threading.get_ident()

    def behind(self) -> bool:
        """Whether there are settings to take."""
        return self._in_place.behind(self._index)

    def look_up(self) -> None:
        """Take new settings, if there are any; on this thread only, and with nothing begun."""
        if threading.get_ident() != self._owner:
            return  # a thread of the application's own asks whether the job is alive
        self._stirred.clear()
        if self.behind() and not self._draining.is_set():
            self._in_place.take(self._index, self._give)

    def nap(self, seconds: float | None) -> bool:
        """Wait so many seconds, or until there is something to look up for, and do; False when the process drains."""
        if threading.get_ident() != self._owner:
            return not self._draining.wait(seconds)
        if not self._draining.is_set() and not self.behind():
            self._stirred.wait(seconds)
        self.look_up()
        return not self._draining.is_set()

    def rest(self, seconds: float) -> bool:
        """Wait so many seconds, whatever there is to look up for meanwhile; False when the process drains."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not self.nap(left):
                return False
        return not self._draining.is_set()

    def _give(self, new: Settings) -> None:
        now = time.monotonic_ns()
        self._board.begin_many((), now, now + self._timeout_ns)  # no message is to blame when it hangs
        try:
            self._job.settings = new
            self._job.reload(new)
        finally:
            self._board.end()


class SettingsTalk:
    """What the supervisor says about settings, and what it is answered."""

    def __init__(self, channel: Channel, path: str, in_place: SettingsInPlace) -> None:
        self._channel = channel
        self._path = path
        self._in_place = in_place

    def hand_out(self, packet: Packet, fds: Sequence[int]) -> None:
        """`reload-settings`: parse; the threads do the rest."""
        try:
            new = settings.parse(self._path, from_memfd(fds[0]).decode())
        except Exception as error:
            say_refused(self._channel, packet["id"], error)
            return
        self._in_place.hand_out(packet["id"], new)

    def restore(self, packet: Packet, _fds: Sequence[int]) -> None:
        """`restore-settings`: another worker could not take them."""
        self._in_place.restore(packet["id"])

    def keep(self, _packet: Packet, _fds: Sequence[int]) -> None:
        """`keep-settings`: all have taken them."""
        Job.settings = self._in_place.keep()

    def answer(self, *, draining: bool) -> None:
        """Say what became of the question, as soon as that is known."""
        if draining:
            number = self._in_place.give_up()
            if number is not None:
                say(self._channel, {"say": "reloaded", "id": number})
            return
        verdict = self._in_place.verdict()
        if verdict is None:
            return
        number, refusal = verdict
        if refusal is None:
            say(self._channel, {"say": "reloaded", "id": number})
        else:
            say_refused(self._channel, number, refusal)
