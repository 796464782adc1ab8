"""Which message may begin, when one key's messages keep their order: the first of each key, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.model.delivery import Delivery


class Order:
    """Every delivery of a source goes through `arrived`, in order. What has no key (None) is in no order.

    A delivery that comes again with its number, because it is to be tried again, begins again: its key has waited for it.
    """

    def __init__(self) -> None:
        self._key: dict[int, Hashable] = {}  # of the message that its key waits for, by its number
        self._behind: dict[Hashable, deque[Delivery]] = {}  # those that wait, of each key that has begun

    def arrived(self, delivery: Delivery, key: Hashable | None) -> bool:
        """Whether it may begin; if not, `ended` gives it in its turn."""
        if key is None or delivery.seq in self._key:
            return True
        if key in self._behind:
            self._behind[key].append(delivery)
            return False
        self._behind[key] = deque()
        self._key[delivery.seq] = key
        return True

    def ended(self, seqs: Sequence[int]) -> list[Delivery]:
        """These are settled; returns those that may begin now."""
        following = []
        for seq in seqs:
            if seq not in self._key:
                continue
            key = self._key.pop(seq)
            if self._behind[key]:
                delivery = self._behind[key].popleft()
                self._key[delivery.seq] = key
                following.append(delivery)
            else:
                del self._behind[key]
        return following

    def forget(self, below: int) -> list[Delivery]:
        """What has a lower number is void, and will come again with another; returns those that may begin now."""
        for key, behind in self._behind.items():
            self._behind[key] = deque(delivery for delivery in behind if delivery.seq >= below)
        return self.ended([seq for seq in self._key if seq < below])
