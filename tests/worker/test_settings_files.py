from __future__ import annotations

import pytest

from holdfast.errors import ConfigurationError
from holdfast.worker.settings import parse


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a.ini", "[db]\nhost = there\nPort=1%\n"),
        ("a.CONF", "[db]\nhost: there\nPort: 1%\n"),
        ("a.toml", '[db]\nhost = "there"\nPort = "1%"\n'),
        ("a.json", '{"db": {"host": "there", "Port": "1%"}}'),
        ("a.yaml", "db: {host: there, Port: 1%}\n"),
        ("a.yml", "db:\n  host: there\n  Port: 1%\n"),
    ],
)
def test_every_format_says_the_same(path: str, text: str) -> None:
    assert parse(path, text) == {"db": {"host": "there", "Port": "1%"}}


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("a.ini", "user=x\n", "a.ini:1: "),
        ("a.ini", "[db]\nuser=x\nuser=y\n", "a.ini:3: "),
        ("a.ini", "[db]\nuser\n", "a.ini:2: "),
        ("a.toml", "[db\n", "a.toml: Expected"),
        ("a.json", '{\n"a": }', "a.json:2: "),
        ("a.json", "[1]", "not a table"),
        ("a.yaml", "a: [1\nb: 2\n", "a.yaml:2: "),
        ("a.xml", "<a/>", "a.xml: unknown format of settings; name it *.ini"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(path: str, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse(path, text)
    assert told in str(error.value)
