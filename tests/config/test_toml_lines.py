"""On which line a key stands, for every way in which TOML lets one write it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigurationError
from holdfast.model.tomlfile import line_of, lines, parse

TEXT = """\
# a comment = 1 [not]
[daemon]  # behind a header
name = "a]" # [x]
"quo.ted" = \"\"\"multi
[not] = 1
\\\"\"\" still\"\"\"\"
list = [ # com ]
  "a", [1,
  2], 'x]#'
]
lit = 'x#y'
[ jobs . "Fee Two" ]
a.b . "c d" = 1
x = {y = 1, z = "}"}
"esc\\u0061pe" = 1
[[rows]]
q = '''
[no]
'''
[[rows]]
q = 2
empty = ""
when = 1979-05-27T07:32:00Z
last = [
]"""


def test_every_key_has_its_line() -> None:
    assert lines(TEXT) == {
        ("daemon",): 2,
        ("daemon", "name"): 3,
        ("daemon", "quo.ted"): 4,
        ("daemon", "list"): 7,
        ("daemon", "lit"): 11,
        ("jobs",): 12,
        ("jobs", "Fee Two"): 12,
        ("jobs", "Fee Two", "a"): 13,
        ("jobs", "Fee Two", "a", "b"): 13,
        ("jobs", "Fee Two", "a", "b", "c d"): 13,
        ("jobs", "Fee Two", "x"): 14,
        ("jobs", "Fee Two", "escape"): 15,
        ("rows",): 20,
        ("rows", "q"): 21,
        ("rows", "empty"): 22,
        ("rows", "when"): 23,
        ("rows", "last"): 24,
    }


def test_the_lines_are_the_same_with_carriage_returns() -> None:
    assert lines(TEXT.replace("\n", "\r\n")) == lines(TEXT)


def test_what_has_no_line_has_that_of_what_is_around_it() -> None:
    known = lines(TEXT)
    assert line_of(known, ("jobs", "Fee Two", "x", "y")) == 14
    assert line_of(known, ("nothing", "at all")) == 0


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a = 1\nb = \n", "fee.toml:2:5"),
        ("x", "fee.toml:1:2"),
        ("a = [\n1,\n", "fee.toml:3:1"),
        ('a = "x\n"', "fee.toml:1:7"),
        ("[a]\n[a]", "fee.toml:2:3"),
    ],
)
def test_what_is_no_toml_has_file_line_and_column(text: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{place}: not TOML") as caught:
        parse(text, "fee.toml")
    assert caught.value.exit_status == 2


def test_what_is_nested_too_deeply_is_an_error_and_no_crash() -> None:
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        parse("a = " + "[" * 100_000, "fee.toml")


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), min_size=1, max_size=8)
STRINGS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=12)


def _written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@given(
    st.lists(st.tuples(KEYS, st.one_of(st.integers(), STRINGS, st.lists(STRINGS, max_size=3))), unique_by=lambda item: item[0], max_size=6)
)
def test_one_statement_a_line_has_that_line(items: list[tuple[str, object]]) -> None:
    text = "\n".join(f"{_written(key)} = {_written(value)} # [" for key, value in items)
    assert lines(text) == {(key,): number for number, (key, _) in enumerate(items, 1)}
