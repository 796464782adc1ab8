"""`stacks`: what every handler thread of every worker is doing, also beside a worker whose interpreter is stuck.

Workers write their stacks into a memfd when they get a signal; this waits for that, for a moment, and never blocks the loop.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from holdfast.linux import process
from holdfast.linux.process import STACKS_SIGNAL
from holdfast.model import stacks
from holdfast.model.slots import is_beside
from holdfast.supervisor import view
from holdfast.supervisor.family import Child

if TYPE_CHECKING:
    from holdfast.supervisor.daemon import Supervisor

Answer = dict[str, Any]
PATIENCE = 5.0
LOOK_EVERY = 0.02


@dataclass(slots=True)
class Question:
    """One that was asked: whose stacks are awaited, until when."""

    waiting: set[str]
    asked: list[str]
    until: float
    answer: Callable[[Answer], None]


class Stacks:
    """Questions under way."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._questions: list[Question] = []

    def ask(self, answer: Callable[[Answer], None], job: str = "") -> None:
        """Ask all workers (of one job); `answer` gets what came within PATIENCE."""
        workers = [child for child in self._supervisor.family.of("worker") if child.stacks >= 0 and child.pid and job in ("", child.job)]
        if not self._questions:  # else the answers to those that were asked before are on their way
            for child in workers:
                os.ftruncate(child.stacks, 0)
                os.lseek(child.stacks, 0, os.SEEK_SET)
                child.kill(STACKS_SIGNAL)
        names = [child.id for child in workers]
        self._questions.append(Question(set(names), names, time.monotonic() + PATIENCE, answer))

    @property
    def busy(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._questions)

    def next_deadline(self) -> float | None:
        """When to look again; None when nobody has asked."""
        return time.monotonic() + LOOK_EVERY if self._questions else None

    def advance(self, now: float) -> None:
        """Answer those whose workers have all written, but for those that are stopped, or whose time is over."""
        members = self._supervisor.family.members
        for question in list(self._questions):
            question.waiting = {name for name in question.waiting if name in members and _may_still_write(members[name])}
            if not question.waiting or now >= question.until:
                self._questions.remove(question)
                question.answer({"exit": 0, "result": {"workers": [self._told(members[n], now) for n in question.asked if n in members]}})

    def _told(self, child: Child, now: float) -> dict[str, Any]:
        text = _text(child)
        whole = stacks.is_whole(text)
        silence = "" if whole else _why(child)
        reading = view.reading(child, now)
        worker = self._supervisor.fleet.workers.get(child.id)
        epoch = self._supervisor.entries.epoch_of(former=worker is not None and is_beside(worker.slot))
        found = stacks.rows(text if whole else "", reading, job=child.job, epoch=epoch, now_ns=int(now * view.NS))
        return {
            "worker": child.id,
            "pid": child.pid,
            "job": child.job,
            "silence": silence,
            "threads": [asdict(row) for row in found],
            "text": stacks.render(child.id, child.pid, found, silence),
        }


def _may_still_write(child: Child) -> bool:
    return not stacks.is_whole(_text(child)) and not process.is_stopped(child.pid)


def _text(child: Child) -> str:
    return os.pread(child.stacks, os.fstat(child.stacks).st_size, 0).decode(errors="replace")


def _why(child: Child) -> str:
    return "it is stopped (SIGSTOP)" if process.is_stopped(child.pid) else f"it has not answered within {PATIENCE:g} s"
