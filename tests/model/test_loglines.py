"""Log lines: cutting, telling events from output, the two forms."""

from __future__ import annotations

import codecs
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.model import loglines
from holdfast.model.loglines import Cutter, Line, Piece

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC).timestamp()
MOMENT = datetime(2026, 11, 24, 7, 14, 20, 123456, tzinfo=timezone(timedelta(hours=1)))


def cut(chunks: list[bytes], longest: int = loglines.LONGEST) -> list[Piece]:
    cutter = Cutter(longest)
    return [piece for chunk in chunks for piece in cutter.feed(chunk)] + list(cutter.end())


@pytest.mark.parametrize(
    ("chunks", "pieces"),
    [
        ([b""], []),
        ([b"one\n"], [Piece(b"one")]),
        ([b"o", b"ne", b"\nt", b"wo\n"], [Piece(b"one"), Piece(b"two")]),
        ([b"\n\n"], [Piece(b""), Piece(b"")]),
        ([b"begun"], [Piece(b"begun")]),
        ([b"12345678\n"], [Piece(b"12345678")]),
        ([b"123456789\n1\n"], [Piece(b"12345678", 1), Piece(b"9", 2), Piece(b"1")]),
        ([b"123456789"], [Piece(b"12345678", 1), Piece(b"9", 2)]),
        (["1234567é\n".encode()], [Piece(b"1234567", 1), Piece("é".encode(), 2)]),
        ([b"\x80" * 9 + b"\n"], [Piece(b"\x80" * 8, 1), Piece(b"\x80", 2)]),
    ],
)
def test_bytes_are_cut_into_lines_and_pieces(chunks: list[bytes], pieces: list[Piece]) -> None:
    assert cut(chunks, 8) == pieces


@given(st.lists(st.binary(max_size=40).map(lambda data: data.replace(b"a", b"\n"))))
def test_how_bytes_arrive_changes_nothing_and_no_byte_is_lost(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    pieces = cut(chunks, 8)
    assert pieces == cut([whole], 8)
    assert all(len(piece.data) <= 8 for piece in pieces)
    joined = b"".join((b"\n" if piece.part in {0, 1} and index else b"") + piece.data for index, piece in enumerate(pieces))
    assert joined == whole.removesuffix(b"\n")


def test_memory_is_bounded_while_no_line_ends() -> None:
    cutter = Cutter(100)
    for _ in range(1000):
        assert all(len(piece.data) <= 100 for piece in cutter.feed(b"x" * 99))
        assert len(cutter._rest) <= 100


def event(**fields: Any) -> Piece:
    return Piece(b"\x1e" + json.dumps(fields).encode())


def test_an_event_says_its_own_time_job_and_worker() -> None:
    line = loglines.parse(event(t=NOW - 5, level="warning", event="a.b", job="Fee", worker="Fee/0.1", text="x", n=3), "Else", "w", NOW)
    assert line == Line(NOW - 5, "warning", "a.b", "Fee", "Fee/0.1", "x", {"n": 3})


def test_an_event_without_job_and_worker_gets_those_of_its_pipe() -> None:
    line = loglines.parse(event(t=NOW, event="a.b", job="", worker=None), "Fee", "Fee/0.1", NOW)
    assert line == Line(NOW, "info", "a.b", "Fee", "Fee/0.1")


@pytest.mark.parametrize("at", [None, "soon", NOW + 90_000, NOW - 90_000, 10**400, float("nan"), float("inf"), [], -1, 0])
def test_a_time_that_cannot_be_is_replaced_by_the_time_of_reading(at: Any) -> None:
    assert loglines.parse(event(t=at, event="a.b"), "", "", NOW).at == NOW


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        (Piece(b"hello"), "hello"),
        (Piece(b""), ""),
        (Piece(b"\x1e"), "\x1e"),
        (Piece(b"\x1e{not json"), "\x1e{not json"),
        (Piece(b"\x1e[1]"), "\x1e[1]"),
        (Piece(b'\x1e{"event": 5}'), '\x1e{"event": 5}'),
        (Piece(b'\x1e{"event": "\xff"}'), '\x1e{"event": "\\xff"}'),
        (Piece(b"\x1e" + b"[" * 100_000), "\x1e" + "[" * 100_000),
        (Piece(b"caf\xe9"), "caf\\xe9"),
    ],
)
def test_everything_else_is_output(piece: Piece, text: str) -> None:
    assert loglines.parse(piece, "Fee", "Fee/0.1", NOW) == Line(NOW, "info", "output", "Fee", "Fee/0.1", text)


def test_a_piece_of_a_long_line_says_which() -> None:
    assert loglines.parse(Piece(b"\x1e{}", 2), "", "", NOW).fields == {"part": 2}


@given(st.binary(), st.sampled_from(["text", "json"]))
def test_whatever_is_logged_becomes_one_line(data: bytes, form: str) -> None:
    for prefix in (b"", b"\x1e", b'\x1e{"event":"x","text":'):
        line = loglines.parse(Piece(prefix + data), "Fee", "Fee/0.1", NOW)
        written = loglines.render(line, loglines.stamp(line.at, UTC), form)
        assert written.endswith(b"\n")
        assert len(written.decode().splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON))
def test_any_json_object_becomes_one_line_that_reads_back(fields: dict[str, Any]) -> None:
    line = loglines.parse(event(**{"event": "x", **fields}), "Fee", "Fee/0.1", NOW)
    moment = loglines.stamp(line.at, UTC)
    assert len(loglines.render(line, moment, "text").decode().splitlines()) == 1
    assert isinstance(json.loads(loglines.render(line, moment, "json")), dict)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            Line(0, "info", "worker.ready", "Fee", "Fee/0.1", "all set", {"threads": 2}),
            "2026-11-24T07:14:20.123+01:00\tINFO\tworker.ready\tFee\tFee/0.1\tall set\tthreads=2\n",
        ),
        (Line(0, "error", "output", text="a\tb\\n\r\n\x1b[0m\u2028é"), "{}ERROR\toutput\t-\t-\ta\\tb\\\\n\\r\\n\\x1b[0m\\u2028é\n"),
        (
            Line(0, "info", "x", fields={"list": [1, "two"], "flag": True, "none": None, "t": "a\nb", "in\t": 1.5}),
            '{}INFO\tx\t-\t-\t\tlist=[1,"two"]\tflag=true\tnone=null\tt=a\\nb\tin\\t=1.5\n',
        ),
        (Line(0, "info", "x", text="\ud800"), "{}INFO\tx\t-\t-\t\\ud800\n"),
    ],
)
def test_text_form(line: Line, text: str) -> None:
    assert loglines.render(line, MOMENT, "text").decode() == text.replace("{}", "2026-11-24T07:14:20.123+01:00\t")


def test_json_form() -> None:
    line = Line(0, "info", "worker.ready", "Fee", "Fee/0.1", "all\nset é", {"threads": 2, "time": "its own"})
    assert json.loads(loglines.render(line, MOMENT, "json")) == {
        "time": "2026-11-24T07:14:20.123+01:00",
        "level": "info",
        "event": "worker.ready",
        "job": "Fee",
        "worker": "Fee/0.1",
        "text": "all\nset é",
        "threads": 2,
    }


@given(st.text(st.characters(codec="utf-8")))
def test_the_text_column_can_be_unescaped(text: str) -> None:
    written = loglines.render(Line(0, "info", "x", text=text), MOMENT, "text").decode().rstrip("\n").split("\t")[5]
    assert codecs.decode(written.encode("latin-1", "backslashreplace"), "unicode_escape") == text


def test_fields_nested_too_deeply_cost_the_fields_not_the_line() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for form in ("text", "json"):
        assert b"nested too deeply" in loglines.render(Line(0, "info", "x", fields={"deep": deep}), MOMENT, form)


@pytest.mark.parametrize(
    ("moment", "hours", "expected"),
    [
        (datetime(2026, 11, 24, 23, 59, 59, 900_000, UTC), 0, "2026-11-24"),
        (datetime(2026, 11, 25, 0, 0, 0, 0, UTC), 0, "2026-11-25"),
        (datetime(2026, 11, 24, 23, 30, 0, 0, UTC), 1, "2026-11-25"),
        (datetime(2026, 11, 25, 0, 30, 0, 0, UTC), -1, "2026-11-24"),
    ],
)
def test_a_line_belongs_to_its_own_local_date(moment: datetime, hours: int, expected: str) -> None:
    assert loglines.date(loglines.stamp(moment.timestamp(), timezone(timedelta(hours=hours)))) == expected


@pytest.mark.parametrize(
    ("level", "event_name", "least", "written"),
    [
        ("debug", "x", "info", False),
        ("info", "x", "info", True),
        ("info", "x", "error", False),
        ("info", "output", "error", True),
        ("loud", "x", "info", True),
    ],
)
def test_levels(level: str, event_name: str, least: str, written: bool) -> None:
    assert Line(0, level, event_name).weighs(least) is written
