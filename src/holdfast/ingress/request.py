"""What the supervisor asks for when it says `listen`, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.model import tally

KINDS = ("rep", "pull", "sub")


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one job. Sizes in bytes, times in seconds; defaults as in holdfast.model.options."""

    in_flight: int = 10_000
    in_flight_bytes: int = 64 << 20
    in_flight_per_client: int = 1_000
    max_message: int = 1 << 20
    max_clients: int = 1_000
    crash_limit: int = 3
    #: A peer that has not finished its greeting by then is cut. (Bytes that do not begin like a greeting are taken by libzmq for
    #: one of ZMTP 1.0, which has no end: such a peer is harmless, but counts among max_clients until it leaves.)
    handshake: float = 10.0

    @classmethod
    def from_packet(cls, data: Mapping[str, Any]) -> Limits:
        """Take what is known and leave the rest: a supervisor of the next version may say more."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})


@dataclass(frozen=True, slots=True)
class Listen:
    """A door for one job: where messages come from and how many of them the job may hold."""

    door: str
    job: str
    row: int
    transport: str
    endpoint: str
    connect: bool
    topics: tuple[str, ...]
    limits: Limits

    @classmethod
    def from_packet(cls, packet: Mapping[str, Any]) -> Listen:
        """Raises ValueError for a transport that is not known, and for a row that the tally does not have."""
        if packet["transport"] not in KINDS:
            raise ValueError(f"unknown transport {packet['transport']!r}; known: {', '.join(KINDS)}")
        if not 0 <= packet["row"] < tally.ROWS:
            raise ValueError(f"row {packet['row']} of the tally is asked for, and it has {tally.ROWS}: so many jobs one ingress can serve")
        return cls(
            door=packet.get("door", packet["job"]),  # whoever has one door for each job need not name them
            job=packet["job"],
            row=packet["row"],
            transport=packet["transport"],
            endpoint=packet["endpoint"],
            connect=bool(packet.get("connect", False)),
            topics=tuple(packet.get("topics", ())),
            limits=Limits.from_packet(packet.get("limits", {})),
        )
