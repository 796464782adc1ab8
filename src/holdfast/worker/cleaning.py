"""Forgetting what the inbox has remembered long enough (`inbox_keep`), in small steps behind the work that fills it.

Each step looks at twice as many rows as came in since the last one, so that cleaning keeps up with any rate and never makes a client
wait. Where nothing comes, the worker's loop asks for a step now and then.
"""

from __future__ import annotations

from holdfast.stores.base import Store
from holdfast.telemetry import events
from holdfast.worker.weather import told

STEP = 2000


class Cleaning:
    """Cleans for one handler thread; None as `store` means that there is nothing to clean."""

    def __init__(self, store: Store | None, keep: float) -> None:
        self._store = store
        self._keep = keep
        self._came = 0

    def after(self, messages: int) -> None:
        """So many messages were processed: a step, if it is time for one."""
        self._came += messages
        if self._came >= STEP:
            self.step()

    def step(self) -> None:
        """Clean a little. What goes wrong costs nothing but old rows that stay."""
        most, self._came = max(STEP, 2 * self._came), 0
        if self._store is None:
            return
        try:
            gone = self._store.clean(self._keep, most)
        except Exception as error:
            events.log("inbox.unclean", told(error), level="warning")
            return
        if gone:
            events.log("inbox.cleaned", level="debug", rows=gone)
