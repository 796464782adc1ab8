"""The channel keeps packets whole, carries descriptors, and tells when the peer is gone."""

import os

import pytest

from holdfast.linux.channel import Channel, from_memfd, to_memfd


def test_packets_stay_whole_and_in_order() -> None:
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    assert ours.send({"do": "a"})
    assert ours.send({"do": "b", "text": "x" * 60000})
    assert [other.receive()[0]["do"], other.receive()[0]["do"]] == ["a", "b"]
    assert other.receive() is None
    ours.close()
    other.close()


def test_descriptors_travel_close_on_exec() -> None:
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    fd = to_memfd("test", b"traceback" * 100000)
    ours.send({"say": "failed"}, [fd])
    os.close(fd)
    _packet, fds = other.receive()
    assert not os.get_inheritable(fds[0])
    assert from_memfd(fds[0]) == b"traceback" * 100000
    ours.close()
    other.close()


def test_a_peer_that_has_gone_is_told() -> None:
    ours, theirs = Channel.pair()
    theirs.close()
    assert not ours.send({"do": "x"})
    with pytest.raises(EOFError):
        ours.receive()
    ours.close()


def test_a_packet_beyond_the_limit_is_our_bug() -> None:
    ours, theirs = Channel.pair()
    with pytest.raises(ValueError, match="the limit is"):
        ours.send({"text": "x" * 70000})
    ours.close()
    theirs.close()
