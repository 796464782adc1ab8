"""What a link does that pika does not."""

from __future__ import annotations

import socket
import time
from contextlib import closing

import pytest

from holdfast.errors import UnavailableError
from holdfast.model.broker import parse_broker, parse_queue
from holdfast.sources.amqp import AmqpSource, Bounds
from holdfast.sources.amqp_link import Link, _Services
from holdfast.sources.amqp_loop import NestedLoop


def test_a_peer_that_is_gone_before_pika_has_looked_is_reported_and_raises_nothing() -> None:
    with closing(NestedLoop()) as loop, socket.socket() as never_connected:
        told: list[BaseException] = []
        _Services(loop).create_streaming_connection(lambda: None, never_connected, told.append)
        loop.turn()
        assert [type(error) for error in told] == [OSError]


def test_a_broker_that_hangs_up_at_once_is_asked_again() -> None:
    with closing(NestedLoop()) as loop, socket.create_server(("127.0.0.1", 0)) as listener:
        downs: list[str] = []
        address = parse_broker(f"amqp://127.0.0.1:{listener.getsockname()[1]}/")
        link = Link(loop, address, "test", lambda _connection: None, downs.append, draw=lambda: 0.0)
        link.open()
        for times in range(1, 4):
            _reset_next(loop, listener)
            assert loop.wait(float("inf"), lambda times=times: len(downs) >= times)
            assert link.trouble
        link.close()


def test_the_next_node_of_a_cluster_is_asked_after_a_failure() -> None:
    with closing(NestedLoop()) as loop, socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        downs: list[str] = []
        address = parse_broker("amqp://" + ",".join(f"127.0.0.1:{node.getsockname()[1]}" for node in (one, two)))
        link = Link(loop, address, "test", lambda _connection: None, downs.append, draw=lambda: 0.0)
        link.open()
        for times, node in enumerate((one, two, one), 1):
            _reset_next(loop, node)
            assert loop.wait(float("inf"), lambda times=times: len(downs) >= times)
        link.close()


def test_a_silent_broker_is_waited_for_no_longer_than_there_is_a_supervisor() -> None:
    supervisor, channel = socket.socketpair()
    with channel, socket.create_server(("127.0.0.1", 0)) as silent:
        address = parse_queue(f"amqp://127.0.0.1:{silent.getsockname()[1]}/?queue=q")
        source = AmqpSource(address, 1, "test", Bounds(1, 1, 1 << 20, 1 << 20, 3, False), list, lambda _delivery: None)
        supervisor.close()
        with pytest.raises(UnavailableError, match="is not to be had"):
            source.connect(time.monotonic() + 3600, channel.fileno())
        source.close()


def _reset_next(loop: NestedLoop, listener: socket.socket) -> None:
    listener.setblocking(False)

    def asked() -> bool:
        try:
            peer, _ = listener.accept()
        except BlockingIOError:
            return False
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        return True

    while not asked():
        loop.turn()
