"""Plain SQL strings: parameters are found, and nothing else is taken for one."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import HoldfastError
from holdfast.stores.statements import parse, split


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT :a, :b, :a", ("a", "b", "a")),
        ("""SELECT '{"a":1}', ':x', "y:z", 'it''s :q' """, ()),
        ("SELECT x::int, @v := 3", ()),
        ("SELECT 1 -- :no\n + :yes /* :no :no */", ("yes",)),
    ],
)
def test_what_is_a_parameter(sql: str, names: tuple[str, ...]) -> None:
    assert parse(sql).names == names


@given(st.lists(st.text(st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"])), min_size=1, max_size=5), st.integers())
def test_values_arrive_as_they_are(texts: list[str], number: int) -> None:
    quoted = ", ".join("'" + text.replace("'", "''") + "', :n" for text in texts)
    sql, values = parse(f"SELECT {quoted}").bind({"n": number % 2**60})
    connection = sqlite3.connect(":memory:")
    row = connection.execute(sql, values).fetchone()
    connection.close()
    assert list(row) == [part for text in texts for part in (text, number % 2**60)]


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3]])
def test_a_list_becomes_as_many_values(values: list[int]) -> None:
    sql, flat = parse("SELECT :n WHERE 2 IN :values").bind({"n": 5, "values": values})
    connection = sqlite3.connect(":memory:")
    found = connection.execute(sql, flat).fetchall()
    connection.close()
    assert found == ([(5,)] if 2 in values else [])


def test_a_missing_value_is_named() -> None:
    with pytest.raises(HoldfastError, match=r"parameter :volume that has no value; given are: login, ticket"):
        parse("SELECT :volume").bind({"ticket": 1, "login": 2})


def test_a_script_is_split_at_its_statements() -> None:
    trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET x = 1; DELETE FROM a; END;"
    assert split(f"CREATE TABLE a (x TEXT DEFAULT ';'); {trigger} SELECT 1") == [
        "CREATE TABLE a (x TEXT DEFAULT ';');",
        trigger,
        "SELECT 1",
    ]
