"""Listeners: exclusive for others, and clear errors."""

import socket
from pathlib import Path

import pytest

from holdfast.errors import UnavailableError
from holdfast.supervisor.listeners import bind_tcp, bind_unix


def test_a_second_daemon_of_the_same_user_cannot_join_silently() -> None:
    with bind_tcp("127.0.0.1", 0) as first, pytest.raises(UnavailableError, match="is in use by another process"):
        bind_tcp("127.0.0.1", first.getsockname()[1])


def test_a_port_opened_for_sharing_is_in_use_too() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(UnavailableError, match="is in use"):
            bind_tcp("127.0.0.1", other.getsockname()[1])


def test_our_own_next_ingress_can_join() -> None:
    with bind_tcp("127.0.0.1", 0) as first, socket.socket() as heir:
        heir.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heir.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        heir.bind(first.getsockname())
        heir.listen()


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(UnavailableError, match="not an address of this machine"):
        bind_tcp("203.0.113.1", 0)


def test_a_dead_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "fee.ipc")
    bind_unix(path).close()
    with bind_unix(path), pytest.raises(UnavailableError, match="is in use"):
        bind_unix(path)


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "fee.ipc"
    path.write_text("precious")
    with pytest.raises(UnavailableError, match="is in use"):
        bind_unix(str(path))
    assert path.read_text() == "precious"
