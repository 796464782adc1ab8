"""Source and store URLs: what is taken, what is refused and with which remedy, and that no password is ever shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import ConfigurationError
from holdfast.model.urls import SourceAddress, masked, parse_source, parse_store


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("zmq+rep://127.0.0.1:5555", SourceAddress("rep", "tcp://127.0.0.1:5555", host="127.0.0.1", port=5555)),
        ("zmq+pull://*:1", SourceAddress("pull", "tcp://*:1", host="*", port=1)),
        ("zmq+rep://0.0.0.0:65535", SourceAddress("rep", "tcp://0.0.0.0:65535", host="0.0.0.0", port=65535)),
        (
            "zmq+sub://[::1]:5557?topic=fee&topic=a%26b",
            SourceAddress("sub", "tcp://[::1]:5557", host="::1", port=5557, topics=("fee", "a&b")),
        ),
        ("zmq+sub://localhost:80?topic=", SourceAddress("sub", "tcp://localhost:80", host="localhost", port=80, topics=("",))),
        (
            "zmq+sub://feed.example.org:6000?connect=true",
            SourceAddress("sub", "tcp://feed.example.org:6000", "feed.example.org", 6000, connect=True),
        ),
        ("zmq+pull://h-1:6000?connect=false", SourceAddress("pull", "tcp://h-1:6000", "h-1", 6000)),
        ("zmq+rep:///run/fee/in.sock", SourceAddress("rep", "ipc:///run/fee/in.sock", path="/run/fee/in.sock")),
        ("zmq+rep:///run/a%20b", SourceAddress("rep", "ipc:///run/a b", path="/run/a b")),
        ("ZMQ+REP://127.0.0.1:5555", SourceAddress("rep", "tcp://127.0.0.1:5555", host="127.0.0.1", port=5555)),
    ],
)
def test_sources(url: str, address: SourceAddress) -> None:
    assert parse_source(url) == address


def test_only_a_rep_source_answers() -> None:
    answers = [parse_source(f"zmq+{kind}://*:1").answers for kind in ("rep", "pull", "sub")]
    assert answers == [True, False, False]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("127.0.0.1:5555", "is not a URL; write it as zmq"),
        ("", "is not a URL"),
        ("zmq+rpe://127.0.0.1:5555", r"unknown source scheme 'zmq\+rpe'; did you mean 'zmq\+rep'\?"),
        ("http://127.0.0.1:5555", r"unknown source scheme 'http'; .*known: zmq\+rep://"),
        ("ampq://localhost/q", r"did you mean 'amqp'\?"),
        ("tcp://127.0.0.1:5", "come in a later version"),
        ("timer://5s", "come in a later version"),
        ("zmq+rep://127.0.0.1", "names no port"),
        ("zmq+rep://[::1]", "names no port"),
        ("zmq+rep://127.0.0.1:0", "'0' is not a port"),
        ("zmq+rep://127.0.0.1:65536", "is not a port"),
        ("zmq+rep://127.0.0.1:http", "is not a port"),
        ("zmq+rep://::1:5555", "without its brackets"),
        ("zmq+rep://:5555", "there is no host"),
        ("zmq+rep://a_/b:1", "no path behind its port"),
        ("zmq+rep://-x:1", "is not a host"),
        ("zmq+rep://u:p@h:1", "no user and no password"),
        ("zmq+rep://h:1?topic=a", "only zmq"),
        ("zmq+sub://h:1?topc=a", "unknown parameter 'topc'; did you mean 'topic'"),
        ("zmq+sub://h:1?connect=yes", "neither true nor false"),
        ("zmq+sub://*:1?connect=true", "nobody can connect"),
        ("zmq+sub://h:1#a", "#fragment"),
        ("zmq+rep:///run/", "not the path of a socket"),
        ("zmq+rep:///" + "x" * 107, "longer than 107 bytes"),
        ("zmq+rep://h :1", "a blank"),
    ],
)
def test_sources_that_cannot_be_used(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        parse_source(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:///fee.db", "fee.db"), ("sqlite:////var/lib/fee.db", "/var/lib/fee.db"), ("sqlite://", ""), ("sqlite:///a/b.db", "a/b.db")],
)
def test_stores(url: str, path: str) -> None:
    assert (parse_store(url).scheme, parse_store(url).path, parse_store(url).server) == ("sqlite", path, False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("fee.db", "is not a URL; write it as sqlite"),
        ("sqlite://host/fee.db", "names a host"),
        ("sqlite:///fee.db?mode=ro", "no parameters"),
        ("sqlite:///data/", "names no file"),
        ("sqlit:///fee.db", "did you mean 'sqlite'"),
        ("mysql://www:geheim@host", "names no host, or no database; write it as mysql://USER"),
        ("mysql:///db", "names no host"),
        ("postgresql://www:geheim@host:http/db", "is not a port"),
        ("postgresql+psycopg2://www:geheim@host/db", "did you mean 'postgresql"),
        ("oracle://host/db", "unknown store scheme 'oracle'; .*known: sqlite"),
    ],
)
def test_stores_that_cannot_be_used(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        parse_store(url)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "scheme", "extra"),
    [
        ("mysql://www:p@host:3306/db?ssl=true", "mysql", "mysql"),
        ("mariadb://host/db", "mysql", "mysql"),
        ("mysql+mysqldb://host/db", "mysql", "mysqlclient"),
        ("mysql+pymysql://host/db", "mysql", "mysql"),
        ("postgres://host/db", "postgresql", "postgresql"),
        ("postgresql+psycopg://u@[::1]:5432/db", "postgresql", "postgresql"),
    ],
)
def test_servers(url: str, scheme: str, extra: str) -> None:
    address = parse_store(url)
    assert (address.scheme, address.extra, address.server) == (scheme, extra, True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://www:geheim@host/db", "mysql://www:***@host/db"),
        ("mysql://www@host/db", "mysql://www@host/db"),
        ("mysql://www:ge@h/e?i#m@host/db", "mysql://www:***@host/db"),
        ("postgresql://:geheim@host", "postgresql://:***@host"),
        ("postgresql://host/db?user=a&password=geheim&x=1", "postgresql://host/db?user=a&password=***&x=1"),
        ("zmq+rep://127.0.0.1:5555", "zmq+rep://127.0.0.1:5555"),
        ("store", "store"),
        ("mysql://a:b@h and amqp://c:d@h", "mysql://a:***@h and amqp://c:***@h"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


@given(
    st.text(st.characters(codec="utf-8", exclude_characters=" \t\r\n\v\f\x1c\x1d\x1e\x1f\x85\xa0", exclude_categories=["Z"]), min_size=6)
)
def test_no_password_is_ever_shown(password: str) -> None:
    shown = masked(f"mysql://www:{password}@db.example.org/fee")
    assert shown == "mysql://www:***@db.example.org/fee"


@given(st.text(max_size=40), st.sampled_from(["", "zmq+rep://", "zmq+sub://h:1?", "sqlite:", "zmq+rep://["]))
def test_any_text_is_an_address_or_a_clear_error(text: str, scheme: str) -> None:
    for parse in (parse_source, parse_store):
        assert remedy(parse, scheme + text)


def remedy(parse: Callable[[str], object], url: str) -> str:
    """The remedy of what is said against a URL; "none needed" when nothing is."""
    try:
        parse(url)
    except ConfigurationError as error:
        return error.remedy
    return "none needed"
