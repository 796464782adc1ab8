"""Credit: how many messages a source may still send to a worker process, so that its memory is bounded."""

from __future__ import annotations


class Credit:
    """Counts what was granted and what is held; together they never exceed `most`.

    New credit is given in steps, so that a frame is not spent on each message. A step is at most half a batch: threads that are
    stuck on theirs (most = batch x (threads + 1)) can then never starve the one that is not.
    """

    def __init__(self, most: int, batch: int) -> None:
        self.most = most
        self.step = max(1, min(most, batch) // 2)
        self.granted = 0
        self.held = 0
        self.open = False

    def received(self, messages: int) -> None:
        """These came; they use up what was granted."""
        self.granted = max(0, self.granted - messages)
        self.held += messages

    def released(self, messages: int) -> None:
        """These were settled, or left us otherwise."""
        self.held -= messages

    def due(self) -> int:
        """How much to grant now (0: nothing yet); counted as granted."""
        free = self.most - self.held - self.granted
        if not self.open or free < self.step:
            return 0
        self.granted += free
        return free
