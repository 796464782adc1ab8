"""The short forms of `./scripts/chaos`, and an oracle that sees what it must."""

import pytest

from chaos.scenarios import SCENARIOS
from chaos.slots import went_back
from chaos.stage import Plan, play
from holdfast.testing.crowd import Crowd, Row, table


@pytest.mark.parametrize(
    ("name", "seconds", "every"),
    [
        ("kill-workers", 4.0, 0.5),
        ("kill-supervisor", 6.0, 2.0),
        ("reload", 5.0, 1.0),
        ("upgrade", 8.0, 2.0),
        ("settings", 3.0, 0.5),
        ("addresses", 4.0, 1.0),
        ("mixed", 8.0, 0.5),
    ],
)
def test_scenario(name: str, seconds: float, every: float) -> None:
    row = play(SCENARIOS[name], Plan(name, seconds, every, rate=500.0))
    assert row.fine, table([row])
    assert row.errors == 0, table([row])


def test_the_oracle_sees_what_is_lost_doubled_or_invented() -> None:
    crowd = Crowd(1)
    crowd.answers = {"a": {b"TRUE"}, "b": {b"TRUE"}, "c": {b"FALSE"}, "d": {b"TRUE"}}
    crowd.unanswered = {"e"}
    verdict = crowd.compare({"b": 2, "d": 1, "e": 1, "x": 1})
    assert (verdict.lost, verdict.doubled, verdict.unknown) == ({"a"}, {"b"}, {"x"})
    assert not Row("s", crowd, verdict).fine
    assert Row("s", crowd, crowd.compare({"a": 1, "b": 1, "d": 1})).fine


def test_the_oracle_sees_versions_that_go_back_on_a_slot() -> None:
    overlap = [("Add/0.1", 10, 1), ("Add/0.3", 20, 2), ("Add/0.1", 30, 1), ("Add/1.2", 40, 1), ("Add/0.12", 50, 3)]
    assert went_back(overlap) == []
    assert went_back([*overlap, ("Add/0.13", 60, 2)]) == ["slot Add/0 went back from 3 to 2"]
    assert went_back([*overlap, ("Add/1.2", 39, 2)]) == ["Add/1.2 went back from 2 to 1"]
