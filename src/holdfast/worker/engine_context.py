"""What a handler thread's engine has to work with: the boundary between the threads and what happens with a batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from holdfast.model.board import ThreadBoard
from holdfast.sources.base import Source
from holdfast.stores.base import Connection, Store


@dataclass(slots=True)
class EngineContext:
    """One thread's surroundings; what is shared by the threads of a process is named so."""

    source: Source | None
    store: Store | None
    connection: Connection | None  # this thread's
    board: ThreadBoard
    draining: Callable[[], bool]
    pause: Callable[[str], None]  # the process pauses its source; shared, may be called again while paused
    resume: Callable[[], None]
    wait: Callable[
        [float], bool
    ]  # sleeps up to so many seconds and may run the job's reload(); returns False when draining. Nothing is begun then
    breaker: Any  # holdfast.model.breaker.Breaker, one per process, guarded by `lock`
    lock: threading.Lock
    fault: Callable[[str], None]  # a fault point was reached
    letters: Any  # LetterFiles for dead_letter="state_dir" or jobs without store, else None
    monotonic_ns: Callable[[], int]
