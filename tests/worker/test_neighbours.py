"""A supervisor of another version: its unknown words and fields do no harm to zygotes and workers."""

from __future__ import annotations

import os

from nursery import Nursery, Peer

APP = """
from holdfast import Job

class Fee(Job):
    def handle(self, message):
        return message.body
"""


def says_something_new(peer: Peer) -> int:
    """The end of a pipe whose other end went along."""
    read, write = os.pipe()
    peer.say({"do": "frobnicate", "mood": "good"}, [write])
    os.close(write)
    return read


def is_closed(fd: int) -> bool:
    """Waits for the end."""
    end = os.read(fd, 1) == b""
    os.close(fd)
    return end


def test_unknown_words_do_no_harm(nursery: Nursery) -> None:
    nursery.loaded(APP)
    assert is_closed(says_something_new(nursery.zygote))
    ward = nursery.spawn()
    fd = says_something_new(ward)
    ward.expect("ready")
    ward.say({"do": "activate", "mood": "good"})
    assert is_closed(fd)
    ward.deliver(b"x")
    assert len(ward.settled(1)) == 1
