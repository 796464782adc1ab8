"""Recycling: when a worker has handled so many messages, is so old or so large that a fresh one takes its place.

Sisters are born together, so their limits must differ, or they would all leave together: each slot has its own share of the limit, from
a third of it to all of it, and a little chance on top. A limit is never exceeded by design, only by what comes between two looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.model.options import JobOptions

SMALLEST_SHARE = 1 / 3
CHANCE = 0.03  # of the limit, to either side, so that daemons that were started together drift apart too


@dataclass(frozen=True, slots=True)
class Limits:
    """Those of one worker; 0: none."""

    messages: int
    age_s: float
    max_rss: int
    share: float

    def reason(self, age_s: float, rss_bytes: int, fresh_rss_bytes: int) -> str:
        """Why the worker is to be replaced now, or "". `fresh_rss_bytes` is what it had when it became active.

        Of memory the share is one of the growth that `max_rss` allows. A worker that was born beyond `max_rss` would be followed by one
        that is just as large: it is left alone. Messages are counted by the worker itself, which says `due`.
        """
        if self.age_s and age_s >= self.age_s:
            return f"max_age: {age_s:.0f} s old"
        room = self.max_rss - fresh_rss_bytes
        if self.max_rss and room > 0 and rss_bytes >= fresh_rss_bytes + self.share * room:
            return f"max_rss: {rss_bytes >> 20} MiB"
        return ""

    def hopeless(self, fresh_rss_bytes: int) -> bool:
        """Whether a fresh worker is beyond `max_rss` already, which recycling cannot help."""
        return 0 < self.max_rss <= fresh_rss_bytes


def draw(options: JobOptions, slot: int, slots: int, chance: float) -> Limits:
    """The limits of a worker that is born into this slot (from 0) of so many; `chance` is from 0 to 1."""
    place = min(slot, slots - 1) / (slots - 1) if slots > 1 else 1.0
    lowest, highest = SMALLEST_SHARE + CHANCE, 1.0 - CHANCE
    share = lowest + (highest - lowest) * place + CHANCE * (2 * chance - 1)
    messages = max(1, round(options.max_messages * share)) if options.max_messages else 0
    return Limits(messages, options.max_age * share, options.max_rss, share)
