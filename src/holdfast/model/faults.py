"""Fault points: places between two steps of a message's life at which a test can make the process die.

HOLDFAST_FAULT="after-commit" dies at the first pass, "after-commit:5" at the fifth, in every process that passes there;
"after-commit,after-settle:3" names several. Off by default, and then it costs one comparison.
"""

from __future__ import annotations

POINTS = ("after-receive", "after-take", "after-begin", "after-inbox", "after-handle", "after-record", "after-commit", "after-settle")
#: Beside a message's life: what it published is confirmed by the broker, and still in the outbox.
RELAY_POINTS = ("after-confirm",)


def parse(text: str) -> dict[str, int]:
    """Point -> the pass at which to die. Raises ValueError for an unknown point."""
    result = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = item.partition(":")
        if name not in (*POINTS, *RELAY_POINTS):
            raise ValueError(f"unknown fault point {name!r}; known: {', '.join((*POINTS, *RELAY_POINTS))}")
        result[name] = int(number or 1)
    return result


class Faults:
    """Counts passes; says when it is time to die."""

    def __init__(self, wanted: dict[str, int]) -> None:
        self._left = dict(wanted)

    def due(self, point: str) -> bool:
        """Whether this pass is the one."""
        if point not in self._left:
            return False
        self._left[point] -= 1
        return self._left[point] == 0
