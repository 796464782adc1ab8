"""The engine on real servers: who misbehaves takes nothing from the others, and real deadlocks count nobody's attempt."""

import threading
from typing import Any

import pytest
from engine_world import INNOCENT, MISBEHAVE, SCHEMA, Add, Build, ByName

from holdfast import Job, Message
from holdfast.model.delivery import DONE, FAILED
from holdfast.stores import open_store
from holdfast.testing.databases import Databases, query

SCHEMA = SCHEMA.replace("TEXT", "VARCHAR(50)")


@pytest.fixture(params=["mariadb", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, databases: Databases) -> str:
    return databases.lend(kind)


@pytest.mark.parametrize("how", sorted(MISBEHAVE))
def test_a_misbehaving_handler_takes_nothing_from_the_others(build: Build, url: str, kind: str, how: str) -> None:
    world = build(url=url)
    bodies = [f"m{n},{n + 1}" for n in range(3)]
    bodies[1] += f",{how}" if how else ""
    world.send(*bodies)
    world.run()
    fine = how in INNOCENT and not (how == "ddl" and kind == "mariadb")
    good = [True, fine, True]
    assert {name: int(volume) for name, volume in world.volumes().items()} == {f"m{n}": n + 1 for n in range(3) if good[n]}
    assert [outcome for outcome, _answer in world.outcomes()] == [DONE if one else FAILED for one in good]
    assert [letter.body for letter in world.letters()] == ([] if fine else [bodies[1].encode()])
    assert max(world.job.runs.values()) <= 2  # type: ignore[attr-defined]


def test_499_of_500_commit_and_the_offenders_end_alone(build: Build, url: str) -> None:
    """Offenders first, last and in the middle."""
    world = build(ByName, url=url)
    bad = {0, 250, 499}
    world.send(*(f"m{n},1,{'raise' if n in bad else ''}" for n in range(500)))
    world.run()
    assert len(world.volumes()) == 497
    assert len(world.letters()) == 3
    assert max(count for name, count in world.job.runs.items() if int(name[1:]) not in bad) <= 2  # type: ignore[attr-defined]


class Crosses(Job):
    """Its first run of a message meets another transaction that wants the same rows the other way round."""

    schema = SCHEMA
    url = ""
    runs = 0

    def handle(self, message: Message, db: Any) -> None:
        db.execute("INSERT INTO account (name, volume) VALUES (:n, 1)", {"n": message.text})
        if message.text != "b":
            return
        type(self).runs += 1
        db.execute("UPDATE account SET volume = volume + 0 WHERE name = 'left'")
        if self.runs > 1:
            return
        rival = threading.Thread(target=self._rival)
        rival.start()
        self.ready.wait(30)
        try:
            db.execute("UPDATE account SET volume = volume + 0 WHERE name = 'right'")
        finally:
            rival.join(30)

    def _rival(self) -> None:
        store = open_store(self.url, "Rival")
        connection = store.connect()
        transaction = connection.begin()
        for _ in range(30):  # heavier than the engine's transaction, which is therefore MariaDB's victim
            transaction.db.execute("INSERT INTO account (name, volume) VALUES ('rival', 0)")
        transaction.db.execute("UPDATE account SET volume = volume + 0 WHERE name = 'right'")
        self.ready.set()
        try:
            transaction.db.execute("UPDATE account SET volume = volume + 0 WHERE name = 'left'")
        except Exception:
            self.survived = False
        transaction.rollback()
        connection.close()
        store.close()


def test_a_real_deadlock_counts_nobodys_attempt(build: Build, url: str) -> None:
    Crosses.url, Crosses.runs, Crosses.ready = url, 0, threading.Event()  # type: ignore[attr-defined]
    world = build(Crosses, url=url)
    query(url, "INSERT INTO account VALUES ('left', 5)", "INSERT INTO account VALUES ('right', 5)")
    world.send("a", "b", "c")
    world.run()
    assert {name: int(volume) for name, volume in world.volumes().items()} == {"a": 1, "b": 1, "c": 1, "left": 5, "right": 5}
    assert [outcome for outcome, _ in world.outcomes()] == [DONE] * 3
    assert world.source.retries == []
    assert world.letters() == []


POISON = {
    "mysql": "UPDATE account SET name = :x WHERE name = 'poison'",  # longer than a packet may be
    "postgresql": "SELECT pg_terminate_backend(pg_backend_pid()), length(:x)",
}


class Poison(Add):
    """A message that makes the connection go away."""

    sql = ""

    def one(self, message: Message, db: Any) -> Any:
        answer = super().one(message, db)
        if message.text.startswith("poison"):
            db.execute(self.sql, {"x": "x" * (17 << 20)})
        return answer


def test_poison_ends_alone_and_takes_nobody_along(build: Build, url: str) -> None:
    Poison.sql = POISON[url.partition(":")[0]]
    world = build(Poison, url=url)
    world.send("a,1", "poison,1", "b,1")
    world.run()
    assert {name: int(volume) for name, volume in world.volumes().items()} == {"a": 1, "b": 1}
    assert [outcome for outcome, _ in world.outcomes()] == [DONE, FAILED, DONE]
    assert [letter.body for letter in world.letters()] == [b"poison,1"]
