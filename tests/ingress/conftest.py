from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from ingress_kit import Client, Supervisor


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(0)


@pytest.fixture
def client(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Callable[..., Client]]:
    """Makes ZeroMQ clients: `client(zmq.REQ, endpoint, RCVHWM=1)`."""
    made: list[Client] = []

    def make(kind: int, endpoint: str, **options: Any) -> Client:
        made.append(Client(context, kind, endpoint, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor with a real ingress process."""
    made = Supervisor(tmp_path)
    yield made
    made.close()
