"""The I/O loop of a worker: the process's first thread. It moves messages and words; it never runs the application's code.

It sleeps until something comes: a packet of the supervisor, messages, a thread's wake-up. Its only clock in an idle process is
the heartbeat.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.errors import UnavailableError
from holdfast.linux.channel import Channel, Packet
from holdfast.model import board as boards
from holdfast.model.blame import Suspect
from holdfast.model.board import BoardWriter
from holdfast.model.spec import WorkerSpec
from holdfast.sources.base import OpenSource
from holdfast.telemetry import events
from holdfast.worker.offspring import close_all
from holdfast.worker.pausing import Pause, Pausing
from holdfast.worker.saying import say, say_failed
from holdfast.worker.settings_in_place import SettingsTalk
from holdfast.worker.threads import Crew, Surroundings
from holdfast.worker.trace import reason_of, trace_of
from holdfast.worker.wakeup import WakeUp

if TYPE_CHECKING:  # only where something is published
    from holdfast.worker.relay import Relay

_FLUSH_SECONDS = 5.0
_SECOND = 10**9
_CHORES_EVERY_NS = 60 * _SECOND
_BROKEN = 70
_NEVER = 1 << 62


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What the loop ties together."""

    spec: WorkerSpec
    channel: Channel
    source: OpenSource | None
    shared: Surroundings
    crew: Crew
    pausing: Pausing
    settings: SettingsTalk
    wake: WakeUp
    board: BoardWriter
    view: memoryview
    relay: Relay | None = None
    leave_by_ns: int | None = None


class Loop:
    """`run` returns the exit status."""

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts
        self._options = parts.spec.options
        self._epoll = select.epoll()
        self._on: dict[int, Callable[[int], None]] = {}
        self._said_ready = False
        self._said_due = False
        self._said_pause: Pause | None = None
        self._said_hung: dict[int, tuple[int, int]] = {}  # thread -> since and deadline of what was told
        self._drain_reason: str | None = None
        self._writing = False
        self._next_beat_ns = 0
        self._next_chores_ns = time.monotonic_ns() + _CHORES_EVERY_NS if parts.spec.first else _NEVER
        self._leave_by_ns = parts.leave_by_ns
        self._commands: dict[str, Callable[[Packet, Sequence[int]], None]] = {
            "activate": lambda _packet, _fds: self._activate(),
            "drain": lambda _packet, _fds: self._drain(),
            "retry-letters": lambda _packet, _fds: parts.shared.intake.ask_for_letters(),
            "reload-settings": parts.settings.hand_out,
            "restore-settings": parts.settings.restore,
            "keep-settings": parts.settings.keep,
            "blamed": self._blame,
        }

    def run(self) -> int:
        """Until the process has drained, failed, or must go."""
        self._watch(self._parts.channel.fileno(), self._on_channel)
        self._watch(self._parts.wake.fileno(), self._on_wake)
        if self._parts.source is not None:
            self._watch(self._parts.source.fileno(), self._on_source)
        while (status := self._attend()) is None:
            for fd, event in self._epoll.poll(self._timeout()):
                if fd in self._on:
                    self._on[fd](event)
        self._epoll.close()
        return status

    # What comes in.

    def _watch(self, fd: int, callback: Callable[[int], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._on[fd] = callback

    def _unwatch(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._on[fd]

    def _on_wake(self, _event: int) -> None:
        self._parts.wake.clear()

    def _on_channel(self, _event: int) -> None:
        try:
            while (received := self._parts.channel.receive()) is not None:
                packet, fds = received
                command = self._commands.get(str(packet.get("do")))
                if command is not None:
                    command(packet, fds)
                else:  # of a supervisor of another version
                    close_all(fds)
        except EOFError:
            self._unwatch(self._parts.channel.fileno())
            self._leave_by_ns = time.monotonic_ns() + int(self._parts.spec.stop_timeout * _SECOND)
            self._drain("supervisor gone")

    def _on_source(self, event: int) -> None:
        source = self._parts.source
        assert source is not None
        if event & select.EPOLLOUT:
            source.flush()
        if event == select.EPOLLOUT:
            return
        try:
            deliveries = source.receive()
        except EOFError:
            self._unwatch(source.fileno())
            self._drain("ingress gone")
            return
        if not deliveries:
            return
        self._parts.shared.fault("after-receive")
        if self._drain_reason is None and self._said_pause is None:
            self._parts.shared.intake.put(deliveries)
        else:
            source.give_back([delivery.seq for delivery in deliveries])

    # What the supervisor asks.

    def _activate(self) -> None:
        if self._drain_reason is not None:
            return
        self._parts.shared.activated.set()
        if self._parts.relay is not None:
            self._parts.relay.start()
        self._parts.shared.settings.stir()
        self._parts.shared.intake.ask_for_letters()
        if self._parts.source is not None and self._parts.pausing.current is None:
            self._parts.source.open()

    def _blame(self, packet: Packet, _fds: Sequence[int]) -> None:
        """Another worker of a broker's queue has died with these begun."""
        if self._parts.source is not None:
            self._parts.source.blame([Suspect(*one) for one in packet["suspects"]])

    def _drain(self, reason: str = "") -> None:
        """Take nothing new, let the threads finish what they have begun."""
        if self._drain_reason is not None:
            return
        self._drain_reason = reason
        shared, source = self._parts.shared, self._parts.source
        if source is not None:
            source.shut()
        shared.draining.set()
        rest = shared.intake.drain()
        shared.activated.set()  # `run` threads that were never activated wait for this, and then see that they drain
        shared.settings.stir()
        if source is not None:
            source.give_back([delivery.seq for delivery in rest])

    # What follows from it.

    def _attend(self) -> int | None:
        """Look at everything that may have changed; the exit status once it is over."""
        crew = self._parts.crew
        if crew.failure is not None:
            status = 5 if isinstance(crew.failure, UnavailableError) else 1
            say_failed(self._parts.channel, crew.failure, status)
            return status
        if crew.broken is not None:
            events.log("thread.broken", f"{reason_of(crew.broken)}\n{trace_of(crew.broken)}", level="error")
            return _BROKEN
        if crew.ready and not self._said_ready and self._drain_reason is None:
            self._said_ready = True
            self._beat(time.monotonic_ns())
            say(self._parts.channel, {"say": "ready"})
        self._tell_pause()
        self._tell_due()
        self._tell_outbox()
        self._parts.settings.answer(draining=self._drain_reason is not None)
        self._adjust_write_interest()
        if self._drain_reason is not None and crew.ended:
            return self._finish(self._drain_reason)
        return self._look_at_clock(time.monotonic_ns())

    def _tell_pause(self) -> None:
        wanted, source, shared = self._parts.pausing.current, self._parts.source, self._parts.shared
        if wanted is self._said_pause:
            return
        self._said_pause = wanted
        if wanted is None:
            say(self._parts.channel, {"say": "resumed"})
            if source is not None and self._drain_reason is None and shared.activated.is_set():
                source.open()
            return
        say(self._parts.channel, {"say": "paused", "reason": wanted.reason, "since": wanted.since})
        if source is not None:
            source.shut()
            source.give_back([delivery.seq for delivery in shared.intake.empty()])

    def _tell_due(self) -> None:
        """Once the process has tried as many messages as one worker should, ask for a fresh one. Meanwhile it works on."""
        if not self._said_due and self._parts.shared.due():
            self._said_due = True
            say(self._parts.channel, {"say": "due", "reason": f"max_messages: {self._parts.shared.tried()} messages tried"})

    def _tell_outbox(self) -> None:
        news = self._parts.relay.news() if self._parts.relay is not None else None
        if news is not None:
            waits, trouble = news
            why = {} if trouble is None else {"trouble": trouble}
            say(self._parts.channel, {"say": "outbox", "messages": waits.messages, "oldest": waits.oldest, **why})

    def _adjust_write_interest(self) -> None:
        source = self._parts.source
        if source is None or source.wants_write() == self._writing or source.fileno() not in self._on:
            return
        self._writing = not self._writing
        self._epoll.modify(source.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._writing else 0))

    def _look_at_clock(self, now_ns: int) -> int | None:
        if now_ns >= self._next_beat_ns:
            self._beat(now_ns)
        for index, thread in enumerate(self._parts.board.threads):
            since, deadline, _count = thread.read()
            if since and deadline <= now_ns and self._said_hung.get(index) != (since, deadline):
                self._said_hung[index] = (since, deadline)
                self._tell_hung(index, now_ns)
        if self._source_due_ns() <= now_ns:
            self._on_source(0)
        if self._leave_by_ns is not None and now_ns >= self._leave_by_ns:
            events.log("worker.forced", "begun work did not finish within stop_timeout", level="error")
            return 1
        return None

    def _tell_hung(self, index: int, now_ns: int) -> None:
        begun = [begun for begun in boards.read(self._parts.view, now_ns).begun if begun.thread == index]
        for item in begun:
            say(self._parts.channel, {"say": "hung", "thread": index, "seqs": list(item.seqs)})

    def _beat(self, now_ns: int) -> None:
        self._parts.board.beat(now_ns)
        self._next_beat_ns = now_ns + int(self._options.heartbeat * _SECOND)
        if now_ns >= self._next_chores_ns:
            self._next_chores_ns = now_ns + _CHORES_EVERY_NS
            self._parts.shared.intake.ask_for_letters()
            if self._parts.relay is not None:
                self._parts.relay.wake()

    def _timeout(self) -> float:
        """Seconds until the clock must be looked at."""
        now_ns = time.monotonic_ns()
        times = [self._next_beat_ns, self._source_due_ns()]
        if self._leave_by_ns is not None:
            times.append(self._leave_by_ns)
        if self._said_ready and self._parts.shared.work != "run" and self._parts.shared.intake.busy(self._parts.crew.size):
            # A message that begins after this moment cannot be late before its full time limit has gone by.
            times.append(now_ns + int(self._options.timeout * _SECOND))
            times.extend(self._deadlines())
        return max(0, min(times) - now_ns) / _SECOND

    def _source_due_ns(self) -> int:
        source = self._parts.source
        due = None if source is None or source.fileno() not in self._on else source.due()
        return _NEVER if due is None else int(due * _SECOND)

    def _deadlines(self) -> list[int]:
        """Deadlines of what is being handled and was not told as hung."""
        states = enumerate(thread.read() for thread in self._parts.board.threads)
        return [deadline for index, (since, deadline, _count) in states if since and self._said_hung.get(index) != (since, deadline)]

    def _finish(self, reason: str) -> int:
        """Everything is settled or given back: let it out, say so."""
        source = self._parts.source
        if source is not None:
            source.finish((self._leave_by_ns or time.monotonic_ns() + int(_FLUSH_SECONDS * _SECOND)) / _SECOND)
        if self._parts.relay is not None:
            self._parts.relay.end(_FLUSH_SECONDS)
        words = {"say": "drained", "reason": reason} if reason else {"say": "drained"}
        say(self._parts.channel, words)
        if source is not None:
            source.close()
        if self._parts.shared.store is not None:
            self._parts.shared.store.close()
        return 0
