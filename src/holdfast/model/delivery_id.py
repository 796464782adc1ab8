"""How a delivery is named to people: the epoch of its ingress and its sequence in it."""

from __future__ import annotations


def delivery_id(epoch: int, seq: int) -> str:
    """`message.id` of what an ingress delivered."""
    return f"{epoch:x}-{seq:x}"


def parse_delivery_id(text: str) -> tuple[int, int] | None:
    """Epoch and sequence of a `delivery_id`; None for anything else."""
    epoch, mark, seq = text.partition("-")
    try:
        return (int(epoch, 16), int(seq, 16)) if mark else None
    except ValueError:
        return None
