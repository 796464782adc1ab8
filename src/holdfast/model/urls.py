"""The URLs of sources and stores: what they may look like, and everything that can be wrong with them.

    zmq+rep://127.0.0.1:5555      zmq+pull://*:5556      zmq+sub://[::1]:5557?topic=fee&topic=rate
    zmq+rep:///run/fee/in.sock    zmq+sub://feed.example.org:6000?connect=true
    sqlite:///fee.db (relative)   sqlite:////var/lib/fee/fee.db      sqlite:// (in memory)
    amqp://USER:PASSWORD@HOST:PORT/VHOST?queue=fee (see `model.broker`)
    mysql://USER:PASSWORD@HOST:PORT/DATABASE      postgresql://USER:PASSWORD@HOST:PORT/DATABASE

A ZeroMQ source binds, also `zmq+sub`, unless `connect=true` says otherwise.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn
from urllib.parse import parse_qsl, unquote

from holdfast.errors import ConfigurationError
from holdfast.model import broker

Transport = Literal["rep", "pull", "sub"]

_SOURCES: dict[str, Transport] = {"zmq+rep": "rep", "zmq+pull": "pull", "zmq+sub": "sub"}
_SOURCES_LATER = ("tcp", "udp", "unix", "fifo", "timer")
#: How a store is written, which database it is, and the extra that brings its driver.
_SERVERS = {
    **dict.fromkeys(("mysql", "mariadb", "mysql+pymysql", "mariadb+pymysql"), ("mysql", "mysql")),
    **dict.fromkeys(("mysql+mysqldb", "mariadb+mysqldb"), ("mysql", "mysqlclient")),
    **dict.fromkeys(("postgresql", "postgres", "postgresql+psycopg"), ("postgresql", "postgresql")),
}
_SOURCE_FORM = "write it as zmq+rep://HOST:PORT or zmq+rep:///PATH"
_STORE_FORM = "write it as sqlite:///fee.db or sqlite:////var/lib/fee/fee.db"
_UNIX_PATH_MOST = 107
_HOST = re.compile(r"\*|[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]+(%[A-Za-z0-9_.-]+)?")
# Up to the last @, since a password may hold an @ or a / that somebody forgot to escape: rather too much than too little.
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s:]*:)\S*(?=@)")
_SECRET_PARAMETER = re.compile(r"([?&](?:[a-z_]*(?:password|passwd|passphrase|secret|token|key))=)[^&#\s]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SourceAddress:
    """Where a brokerless source listens, or connects to. `path` instead of host and port for a UNIX socket."""

    transport: Transport
    endpoint: str  # as libzmq writes it: tcp://HOST:PORT or ipc://PATH
    host: str = ""  # without the brackets of IPv6; "*" is every IPv4 address
    port: int = 0
    path: str = ""
    connect: bool = False
    topics: tuple[str, ...] = ()

    @property
    def answers(self) -> bool:
        """Whether somebody waits for the answer."""
        return self.transport == "rep"


@dataclass(frozen=True, slots=True)
class StoreAddress:
    """A database. `path` is as written: relative paths belong to the working directory; empty for one in memory."""

    scheme: str  # sqlite, mysql (also for MariaDB) or postgresql
    path: str = ""
    written: str = "sqlite"
    extra: str = ""  # of ours, which brings the driver

    @property
    def server(self) -> bool:
        """Whether a database server is behind it, which has more than one writer."""
        return self.scheme != "sqlite"


def parse_source(url: str) -> SourceAddress:
    """What a source URL says. ConfigurationError for one that cannot be used; it never repeats a password."""
    scheme, rest = _split(url, _SOURCE_FORM)
    transport = _SOURCES.get(scheme)
    if transport is None:
        _refuse_source(scheme)
    place, _, query = rest.partition("?")
    connect, topics = _parameters(query, transport)
    if "#" in rest:
        raise ConfigurationError("a source URL has no #fragment", remedy="write # in a topic as %23")
    if place.startswith("/"):
        path = _unix_path(place)
        return SourceAddress(transport, f"ipc://{path}", path=path, connect=connect, topics=topics)
    host, port = _host_and_port(place)
    if connect and host in {"*", "0.0.0.0", "::"}:
        raise ConfigurationError(f"nobody can connect to '{host}'", remedy="name the host, or leave out connect=true to listen")
    shown = f"[{host}]" if ":" in host else host
    return SourceAddress(transport, f"tcp://{shown}:{port}", host=host, port=port, connect=connect, topics=topics)


def parse_store(url: str) -> StoreAddress:
    """What a store URL says. ConfigurationError for one that cannot be used; it never repeats a password."""
    scheme, rest = _split(url, _STORE_FORM)
    if scheme in _SERVERS:
        return _server(scheme, rest)
    if scheme != "sqlite":
        _refuse_unknown("store", scheme, ["sqlite", *_SERVERS], ["sqlite", "mysql", "postgresql"])
    if rest and not rest.startswith("/"):
        raise ConfigurationError("this SQLite URL names a host, and SQLite has none", remedy=_STORE_FORM)
    if "?" in rest or "#" in rest:
        raise ConfigurationError("a SQLite URL has no parameters", remedy=_STORE_FORM)
    if rest.endswith("/"):
        raise ConfigurationError("this SQLite URL names no file", remedy=_STORE_FORM)
    return StoreAddress("sqlite", rest[1:])


def _server(scheme: str, rest: str) -> StoreAddress:
    kind, extra = _SERVERS[scheme]
    form = f"write it as {kind}://USER:PASSWORD@HOST:PORT/DATABASE"
    place, _, database = re.split(r"[?#]", rest, maxsplit=1)[0].rpartition("/")
    host = place.rpartition("@")[2]
    if not place or not database or "/" in place.rpartition("@")[0] + host:
        raise ConfigurationError(
            "this store names no host, or no database", remedy=f"{form}; write / ? # @ in a password as %2F %3F %23 %40"
        )
    port = re.search(r":([^:\]]*)$", host)
    if port is not None:
        _port(port[1])
    return StoreAddress(kind, written=scheme, extra=extra)


def masked(text: str) -> str:
    """The text without the passwords of the URLs in it: mysql://www:***@host/db."""
    return _SECRET_PARAMETER.sub(r"\1***", _USERINFO.sub(r"\1***", text))


def _split(url: str, form: str) -> tuple[str, str]:
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise ConfigurationError(f"'{masked(url)}' is not a URL", remedy=form)
    if not url.isprintable() or " " in url:
        raise ConfigurationError("the URL holds a blank or a character that cannot be printed", remedy=form)
    return scheme.lower(), rest


def _refuse_source(scheme: str) -> NoReturn:
    if scheme in _SOURCES_LATER:
        raise ConfigurationError(f"{scheme}:// sources come in a later version", remedy=f"use one of {_list(_SOURCES)} until then")
    _refuse_unknown("source", scheme, [*_SOURCES, *broker.SCHEMES, *_SOURCES_LATER], [*_SOURCES, *broker.SCHEMES])


def _refuse_unknown(what: str, scheme: str, every: Sequence[str], usable: Sequence[str]) -> NoReturn:
    near = difflib.get_close_matches(scheme, every, 1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigurationError(f"unknown {what} scheme '{scheme}'", remedy=f"{guess}known: {_list(usable)}")


def _list(schemes: Sequence[str] | dict[str, Transport]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)


def _host_and_port(place: str) -> tuple[str, int]:
    if "@" in place:
        raise ConfigurationError("a ZeroMQ source has no user and no password", remedy=_SOURCE_FORM)
    if "/" in place:
        raise ConfigurationError("a ZeroMQ source has no path behind its port", remedy=_SOURCE_FORM)
    host, colon, port = place.rpartition(":")
    if not colon or port.endswith("]"):
        raise ConfigurationError(f"'{place}' names no port", remedy=_SOURCE_FORM)
    return _host(host), _port(port)


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]") and ":" in text and _IPV6.fullmatch(text[1:-1]):
        return text[1:-1]
    if ":" in text:
        raise ConfigurationError(f"'{text}' looks like IPv6 without its brackets", remedy="write zmq+rep://[::1]:5555")
    if not text:
        raise ConfigurationError("there is no host", remedy="write *, 0.0.0.0, 127.0.0.1 or a name before the port")
    if not _HOST.fullmatch(text):
        raise ConfigurationError(f"'{text}' is not a host", remedy=_SOURCE_FORM)
    return text


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ConfigurationError(f"'{text}' is not a port", remedy="write a number from 1 to 65535")
    return int(text)


def _unix_path(place: str) -> str:
    path = unquote(place)
    if path.endswith("/"):
        raise ConfigurationError(f"'{path}' is not the path of a socket", remedy="write zmq+rep:///run/fee/in.sock")
    if len(path.encode()) > _UNIX_PATH_MOST:
        raise ConfigurationError(
            f"'{path}' is longer than {_UNIX_PATH_MOST} bytes, the most for a UNIX socket", remedy="use a shorter path"
        )
    return path


def _parameters(query: str, transport: Transport) -> tuple[bool, tuple[str, ...]]:
    """`connect` and the topics."""
    connect, topics = False, []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "connect":
            if value not in {"true", "false"}:
                raise ConfigurationError(f"connect={value} is neither true nor false", remedy="write connect=true, or leave it out")
            connect = value == "true"
        elif name == "topic" and transport == "sub":
            topics.append(value)
        elif name == "topic":
            raise ConfigurationError("only zmq+sub:// has topics", remedy="leave out topic=")
        else:
            near = difflib.get_close_matches(name, ["topic", "connect"], 1)
            raise ConfigurationError(
                f"unknown parameter '{name}'", remedy=f"did you mean '{near[0]}'?" if near else "known: topic= (zmq+sub), connect=true"
            )
    return connect, tuple(topics)
