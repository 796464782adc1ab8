"""Durations, sizes and ranges: how they are written, and how they are shown."""

from __future__ import annotations

import math
import re

DURATION_FORM = 'a duration such as "50ms", "30s", "5m" or "24h"; a plain number is seconds'
SIZE_FORM = 'a size such as "512KiB", "64MiB" or "1MB"; a plain number is bytes'
RANGE_FORM = 'two durations such as "1s..5m", the shorter first'

_DURATIONS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_QUANTITY = re.compile(r"\s*([0-9][0-9_]{0,30}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})\s*([a-zA-Zµ]*)\s*")
_MOST_SECONDS = 100 * 365.25 * 86400


def duration(value: object) -> float:
    """Seconds. ValueError, whose text says what is wanted, for anything that is not a duration."""
    number, unit = _quantity(value, DURATION_FORM)
    if unit and unit not in _DURATIONS:
        raise ValueError(DURATION_FORM)
    seconds = number * _DURATIONS[unit] if unit else number
    if seconds > _MOST_SECONDS:
        raise ValueError("a duration of less than a hundred years")
    return seconds


def size(value: object) -> int:
    """Bytes. ValueError, whose text says what is wanted, for anything that is not a size."""
    number, unit = _quantity(value, SIZE_FORM)
    if unit and unit.lower() not in _SIZES:
        raise ValueError(SIZE_FORM)
    count = number * (_SIZES[unit.lower()] if unit else 1)
    if count != int(count) or count >= 1 << 63:
        raise ValueError("a whole number of bytes" if count < 1 << 63 else "a size that this machine can count")
    return int(count)


def duration_range(value: object) -> tuple[float, float]:
    """Two durations in seconds, the first not longer than the second. ValueError otherwise."""
    if isinstance(value, list | tuple) and len(value) == 2:
        low, high = value
    elif isinstance(value, str) and value.count("..") == 1:
        low, high = value.split("..")
    else:
        raise ValueError(RANGE_FORM)
    result = duration(low), duration(high)
    if result[0] > result[1]:
        raise ValueError(RANGE_FORM)
    return result


def show_duration(seconds: float) -> str:
    """As it is written, in the largest unit that leaves a whole number."""
    for unit, length in (("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= length and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    if 0 < seconds < 1:
        return f"{_plain(seconds * 1000)}ms"
    return f"{_plain(seconds)}s"


def show_size(count: int) -> str:
    """As it is written, in the largest unit that leaves a whole number."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count and count % length == 0:
            return f"{count // length}{unit}"
    return str(count)


def show_range(limits: tuple[float, float]) -> str:
    """As it is written."""
    return f"{show_duration(limits[0])}..{show_duration(limits[1])}"


def _quantity(value: object, form: str) -> tuple[float, str]:
    """A number that is not negative, and its unit."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return value, ""
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(form)
    text = found[1].replace("_", "")
    return float(text) if "." in text else int(text), found[2]


def _plain(number: float) -> str:
    """Without an exponent, and without digits that only the binary form has made."""
    return f"{number:.9f}".rstrip("0").rstrip(".")
