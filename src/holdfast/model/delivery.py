"""The frames between the ingress and a worker: a stream of MessagePack arrays, each behind its length (u32, little endian).

Ingress to worker:

    ["m", [delivery, …]]                 messages to work on
Worker to ingress:
    ["credit", n]                        n more messages may be sent, on top of what was granted before
    ["settled", [[seq, outcome, answer], …]]   final: the ingress answers (where the transport does) and forgets them
    ["retry", [[seq, delay_s, reason], …]]     not done: deliver again after the delay, with attempt + 1
    ["back", [seq, …]]                   never begun: deliver to somebody else at once, attempt unchanged

A sequence number is unique within one epoch, the life of one ingress process; both together are the delivery id.
The protocol is versioned by the pair (N, N-1): a worker and an ingress of neighbouring versions understand each other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import msgspec

DONE = 0  # handled and committed; `answer` is the reply
FAILED = 1  # a dead letter was stored; `answer` is the reply (b"FALSE")

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()


class Delivery(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One message on its way to a worker."""

    seq: int
    body: bytes
    received_ns: int  # CLOCK_MONOTONIC when the ingress took it
    attempt: int = 1
    redelivered: bool = False  # an earlier worker may have committed it: ask the inbox
    doom: str = ""  # not to be handled any more: make it a dead letter with this reason
    headers: dict[str, Any] | None = None
    identity: str = ""  # what its sender called it, where the transport carries that
    mark: int = 0  # by which the supervisor knows it again in another worker; 0: by its sequence


def encode(frame: tuple[str, Any]) -> bytes:
    """One frame, length first."""
    data = _encoder.encode(frame)
    return _LENGTH.pack(len(data)) + data


# Built once: a typed decoder costs half a millisecond, which a forked worker does not have.
_deliveries: msgspec.msgpack.Decoder[tuple[str, Any]] = msgspec.msgpack.Decoder(tuple[str, list[Delivery]])
_anything: msgspec.msgpack.Decoder[tuple[str, Any]] = msgspec.msgpack.Decoder(tuple[str, Any])


class Decoder:
    """Cuts a byte stream into frames; `kind` types the second member for frames that carry deliveries."""

    def __init__(self, deliveries: bool = False) -> None:
        self._buffer = bytearray()
        self._decoder = _deliveries if deliveries else _anything

    def feed(self, data: bytes) -> Iterator[tuple[str, Any]]:
        """Add bytes; yield every frame that is whole."""
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            if len(self._buffer) - at - 4 < length:
                break
            frame = self._decoder.decode(bytes(memoryview(self._buffer)[at + 4 : at + 4 + length]))
            at += 4 + length
            yield frame
        if at:
            del self._buffer[:at]
