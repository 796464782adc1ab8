"""The last thing before a fork: leave what is there alone, and let what comes lie together."""

from __future__ import annotations

import gc

_POOL = 1 << 14  # in CPython's allocator, of blocks of one size; the first of them begins behind the header
_FIRST = 48
_OVERHEAD = 33  # of a bytes object
_IN_A_ROW = 4  # blocks side by side from the first one on: so a pool is given out that was all free
_MOST = 1 << 17  # bytes for one size; where nothing looks like a pool, that is all that is lost

_filling: list[object] = []


def freeze() -> None:
    """Collect garbage, fill the holes, and let no collection look at what is there now."""
    _filling.clear()
    gc.collect()
    _fill_holes()
    gc.freeze()


def _fill_holes() -> None:
    """Take the blocks that are free between others, up to the first few of a pool that is all free.

    A child puts what it makes into the free blocks of its size. Next to blocks of its parent each of them would copy a page; in pools of
    their own they share pages. Measured: 250 KiB less for each process, for 0.3 MiB that all share.
    """
    for size in range(48, 513, 16):
        row = 0
        for _ in range(_MOST // size):
            _filling.append(block := bytes(size - _OVERHEAD))
            place = id(block) % _POOL
            row = row + 1 if place == _FIRST + row * size else int(place == _FIRST)
            if row == _IN_A_ROW:
                break
