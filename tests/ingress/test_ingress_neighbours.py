"""A supervisor of another version: its unknown words do no harm."""

from __future__ import annotations

import os
from collections.abc import Callable

import zmq
from ingress_kit import Client, Supervisor


def test_words_and_fields_that_an_ingress_does_not_know_do_no_harm(supervisor: Supervisor, client: Callable[..., Client]) -> None:
    endpoint = supervisor.listen()
    worker = supervisor.attach("W", 10)
    read, write = os.pipe()
    supervisor.tell("frobnicate", [write], mood="good")
    supervisor.tell("open", mood="good")
    os.close(write)
    supervisor.obeyed()
    assert os.read(read, 1) == b"", "what came with it is closed"
    os.close(read)
    asker = client(zmq.REQ, endpoint)
    asker.send(b"1")
    worker.serve(1)
    assert asker.recv() == [b"1"]
