"""Log lines for what may happen thousands of times a second."""

from __future__ import annotations

import time
from typing import Any

from holdfast.telemetry import events

EVERY = 10.0


class Notice:
    """Logs the first of a kind at once, and then at most one line in ten seconds, with the count since the last."""

    def __init__(self, event: str, text: str, **fields: Any) -> None:
        self._event = event
        self._text = text
        self._fields = fields
        self._next = 0.0
        self._count = 0

    def add(self, count: int) -> None:
        """So many more have happened."""
        self._count += count
        now = time.monotonic()
        if self._count and now >= self._next:
            events.log(self._event, self._text, "warning", count=self._count, **self._fields)
            self._next, self._count = now + EVERY, 0
