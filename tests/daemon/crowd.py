"""What clients of the daemon under test do, beside the crowd of the testing kit."""

import sqlite3
from collections import Counter
from pathlib import Path

import zmq

from holdfast.testing.crowd import Crowd

__all__ = ["Crowd", "ask", "effects"]


def effects(database: Path) -> Counter[str]:
    """How often each name was counted."""
    connection = sqlite3.connect(database)
    try:
        return Counter(dict(connection.execute("SELECT name, sum(volume) FROM account GROUP BY name").fetchall()))
    finally:
        connection.close()


def ask(port: int, body: str, patience: float = 60.0) -> bytes:
    """One request, one answer; AssertionError when none comes."""
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(f"tcp://127.0.0.1:{port}")
        sock.send(body.encode())
        assert sock.poll(patience * 1000), f"no answer to {body!r}"
        return sock.recv()
