"""Durations, sizes and ranges: a table of what is taken and what is not, and what is shown is what was meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model import units


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        *[("50ms", 0.05), ("30s", 30), ("5m", 300), ("24h", 86400), ("1.5s", 1.5), ("2d", 172800), ("250us", 0.00025), (" 3 s ", 3)],
        *[(0, 0), (30, 30), (0.5, 0.5), ("30", 30), (".5s", 0.5), ("1_000ms", 1)],
    ],
)
def test_durations(written: object, seconds: float) -> None:
    assert units.duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written",
    ["", "s", "5 minutes", "-1s", "1s2", "1,5s", "1e3s", "5M", "0x1s", -1, float("nan"), float("inf"), True, None, [], "9" * 5000],
)
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match="a duration"):
        units.duration(written)


@pytest.mark.parametrize(
    ("written", "count"),
    [
        *[("64MiB", 64 << 20), ("1MB", 10**6), ("512KiB", 512 << 10), ("1kb", 1000), ("2GiB", 2 << 30), ("7B", 7), ("1.5KiB", 1536)],
        *[(0, 0), (4096, 4096), ("4096", 4096), ("10_000", 10_000), (2.0, 2)],
    ],
)
def test_sizes(written: object, count: int) -> None:
    assert units.size(written) == count
    assert type(units.size(written)) is int


@pytest.mark.parametrize("written", ["", "64M", "MiB", "1.5", "0.3KiB", "-1", -1, True, None, "1PiB", 1.5, "9" * 30])
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match=r"a size|a whole number"):
        units.size(written)


@pytest.mark.parametrize(
    ("written", "limits"),
    [("1s..5m", (1, 300)), ("50ms..50ms", (0.05, 0.05)), ([1, "5m"], (1, 300)), ((0, 2.5), (0, 2.5)), ("1 .. 2s", (1, 2))],
)
def test_ranges(written: object, limits: tuple[float, float]) -> None:
    assert units.duration_range(written) == pytest.approx(limits)


@pytest.mark.parametrize("written", ["5m..1s", "1s", "1s..", "1s..2s..3s", [1], 5, None, "a..b"])
def test_what_is_no_range(written: object) -> None:
    with pytest.raises(ValueError, match=r"a duration|two durations"):
        units.duration_range(written)


@given(st.integers(0, 10**12))
def test_a_shown_size_is_the_size(count: int) -> None:
    assert units.size(units.show_size(count)) == count


@given(st.integers(0, 10**12))
def test_a_shown_duration_is_the_duration(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert units.duration(units.show_duration(seconds)) == pytest.approx(seconds, rel=1e-9, abs=1e-9)


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_clear_sentence(text: str) -> None:
    for read in (units.duration, units.size, units.duration_range):
        assert complaint(read, text) == "" or complaint(read, text).startswith(("a ", "two "))


def complaint(read: Callable[[object], object], text: str) -> str:
    """What it says against the text; empty when nothing."""
    try:
        read(text)
    except ValueError as error:
        return str(error)
    return ""
