"""The first of each key begins, one at a time."""

from __future__ import annotations

import random

import pytest

from holdfast.model.delivery import Delivery
from holdfast.model.order import Order


def one(seq: int) -> Delivery:
    return Delivery(seq, b"", 0)


def test_a_key_waits_for_its_first_and_others_do_not() -> None:
    order = Order()
    assert [order.arrived(one(seq), key) for seq, key in ((1, "a"), (2, "a"), (3, "b"), (4, None), (5, None))] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert order.arrived(one(1), "a")  # again
    assert order.ended([3, 4]) == []
    assert order.ended([1]) == [one(2)]
    assert order.ended([2]) == []
    assert order.arrived(one(6), "a")


def test_what_is_void_blocks_nobody() -> None:
    order = Order()
    assert [order.arrived(one(seq), "a") for seq in (1, 2, 9)] == [True, False, False]
    assert order.forget(5) == [one(9)]


@pytest.mark.parametrize("seed", range(20))
def test_each_key_is_in_order_and_everything_begins(seed: int) -> None:
    draw = random.Random(seed)
    order, keys, open_, begun = Order(), {}, [], []
    for seq in range(200):
        keys[seq] = draw.choice("abcd")
        if order.arrived(one(seq), keys[seq]):
            open_.append(seq)
        while open_ and (draw.random() < 0.4 or seq == 199):
            ended = open_.pop(draw.randrange(len(open_)))
            begun.append(ended)
            open_ += [delivery.seq for delivery in order.ended([ended])]
            assert len({keys[number] for number in open_}) == len(open_)
    assert sorted(begun) == list(range(200))
    for key in "abcd":
        assert [seq for seq in begun if keys[seq] == key] == [seq for seq in range(200) if keys[seq] == key]
