"""The testing kit does for users what it does for us: the example's handler is tested in three lines."""

import importlib.util
from pathlib import Path

import pytest

from holdfast import Message, Reject
from holdfast.testing import FakeClock, free_port, store

EXAMPLE = Path(__file__).parents[2] / "examples" / "fee" / "fee.py"


def _fee() -> type:
    spec = importlib.util.spec_from_file_location("fee_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Fee  # type: ignore[no-any-return]


def test_a_handler_is_a_unit() -> None:
    fee = _fee()
    with store("sqlite://").install(fee) as db:
        assert fee().handle(Message(b"1,a,2"), db) == "TRUE"
        assert db.execute("SELECT ticket, login, volume, status FROM fee").all() == [(1, "a", 2, "Y")]
        db.rollback()
        assert db.execute("SELECT count(*) FROM fee").scalar() == 0


def test_what_is_not_text_is_rejected() -> None:
    with pytest.raises(Reject):
        _ = Message(b"\xff").text


def test_a_port_is_not_given_again_before_it_can_be_in_use() -> None:
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100


def test_the_clock_moves_when_it_is_told_to() -> None:
    clock = FakeClock()
    before = clock.monotonic()
    clock.advance(2.5)
    assert clock.monotonic() - before == 2.5
