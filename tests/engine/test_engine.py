"""The order of a message's life, with a real SQLite file: every message acknowledged has its effect exactly once (G3, G4)."""

import time
from typing import Any

import pytest
from engine_world import INNOCENT, MISBEHAVE, SCHEMA, Add, Build, ByName, InBatches, World

from holdfast import Job, Message, Retry
from holdfast.model.delivery import DONE, FAILED


def test_the_answer_comes_after_the_commit(build: Build) -> None:
    world = build()
    rows: list[int] = []
    settle = world.source.settle
    world.source.settle = lambda items: (rows.append(len(world.query("SELECT 1 FROM account"))), settle(items))[1]  # type: ignore[method-assign,assignment]
    world.send("a,1", "b,2,answer")
    world.run()
    assert rows == [2]
    assert world.outcomes() == [(DONE, b"TRUE"), (DONE, b"ok b")]
    assert world.source.calls == [[1, 2]]
    assert world.points == [
        *("after-take", "after-begin", "after-inbox", "after-handle", "after-handle", "after-record", "after-commit", "after-settle")
    ]
    assert world.counters() | {"handled": 2, "batches": 1} == world.counters()


@pytest.mark.parametrize("how", sorted(MISBEHAVE))
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_misbehaving_handler_takes_nothing_from_the_others(build: Build, how: str, place: int) -> None:
    world = build()
    bodies = [f"m{n},{n + 1}" for n in range(3)]
    bodies[place] += f",{how}" if how else ""
    world.send(*bodies)
    world.run()
    good = [n != place or how in INNOCENT for n in range(3)]
    assert world.volumes() == {f"m{n}": n + 1 for n in range(3) if good[n]}
    assert [outcome for outcome, _answer in world.outcomes()] == [DONE if fine else FAILED for fine in good]
    assert [letter.body for letter in world.letters()] == [bodies[n].encode() for n in range(3) if not good[n]]
    assert max(world.job.runs.values()) <= 2  # type: ignore[attr-defined]


def test_what_an_orm_session_holds_is_written_with_its_message(build: Build) -> None:
    world = build()
    world.send("a,1", "b,2,orm-open", "c,3,raise")
    world.run()
    assert world.query("SELECT name FROM orm") == [("x",)]
    assert world.volumes() == {"a": 1, "b": 2}


@pytest.mark.parametrize(("how", "reason"), [("orm-broken", "the ORM session could not be written"), ("nested", "left a savepoint open")])
def test_what_a_handler_left_open_is_told(build: Build, how: str, reason: str) -> None:
    world = build()
    world.send(f"a,1,{how}")
    world.run()
    assert reason in world.letters()[0].reason


@pytest.mark.parametrize("how", ["raise", "commit", "swallow", "number", "long"])
def test_many_offenders_cost_few_transactions(build: Build, how: str) -> None:
    world = build()
    world.send(*(f"m{n},1" + (f",{how}" if n % 4 == 0 else "") for n in range(20)))
    world.run()
    assert world.volumes() == {f"m{n}": 1 for n in range(20) if n % 4}
    assert len(world.letters()) == 5
    assert max(count for name, count in world.job.runs.items() if int(name[1:]) % 4) <= 2  # type: ignore[attr-defined]
    assert world.points.count("after-commit") <= 4


def test_a_message_that_fails_before_its_first_statement_costs_nothing(build: Build) -> None:
    world = build()
    world.send("a,1", "b,2,reject-first", "c,3")
    world.run()
    assert world.volumes() == {"a": 1, "c": 3}
    assert world.counters()["replays"] == 0
    assert world.job.runs == {"a": 1, "b": 1, "c": 1}  # type: ignore[attr-defined]
    assert world.counters()["rejected"] == 1


def test_a_committed_message_that_comes_again_gets_its_first_answer(build: Build) -> None:
    world = build()
    world.send("a,1,answer", "b,2,raise")
    world.run()
    first = world.outcomes()
    for seq, body in ((1, b"a,1,answer"), (2, b"b,2,raise")):
        world.source._last = seq - 1
        world.source.put(body, redelivered=True)
    world.source.settled.clear()
    world.run()
    assert world.outcomes() == first == [(DONE, b"ok a"), (FAILED, b"FALSE")]
    assert world.volumes() == {"a": 1}
    assert len(world.letters()) == 1
    assert world.counters()["duplicates"] == 2


def test_an_identity_has_one_effect_and_another_body_is_never_run(build: Build) -> None:
    world = build(ByName)
    world.send("a,1,answer", "a,1,answer", "a,9")
    world.run()
    assert world.volumes() == {"a": 1}
    assert world.outcomes() == [(DONE, b"ok a"), (DONE, b"ok a"), (FAILED, b"FALSE")]
    assert [letter.reason for letter in world.letters()] == ["the same identity came before with another body"]
    assert world.job.runs == {"a": 1}  # type: ignore[attr-defined]


def test_an_identity_that_failed_is_answered_as_before_and_not_run_again(build: Build) -> None:
    world = build(ByName)
    world.send("a,1,raise")
    world.run()
    world.send("a,1,raise")
    world.run()
    assert world.outcomes() == [(FAILED, b"FALSE")] * 2
    assert len(world.letters()) == 1
    assert world.job.runs == {"a": 1}  # type: ignore[attr-defined]


class NoIdentity(Add):
    def identity(self, message: Message) -> Any:
        name = message.text.split(",")[0]
        if name == "bad":
            raise ValueError("no ticket")
        return 17 if name == "number" else None


def test_an_identity_that_cannot_be_told_is_that_messages_failure(build: Build) -> None:
    world = build(NoIdentity)
    world.send("a,1", "bad,1", "number,1")
    world.run()
    assert world.volumes() == {"a": 1}
    assert [outcome for outcome, _ in world.outcomes()] == [DONE, FAILED, FAILED]
    reasons = {letter.body: letter.reason for letter in world.letters()}
    assert reasons[b"bad,1"].endswith("ValueError: no ticket")
    assert reasons[b"number,1"].endswith("identity() gave int; give str, bytes or None")


@pytest.mark.parametrize("how", ["raise", "item", "swallow", "commit", "exit", "number"])
def test_offenders_of_a_batch_end_alone(build: Build, how: str) -> None:
    world = build(InBatches)
    world.send(*(f"m{n},1" + (f",{how}" if n in (0, 4, 8) else "") for n in range(9)))
    world.run()
    assert world.volumes() == {f"m{n}": 1 for n in range(9) if n not in (0, 4, 8)}
    assert len(world.source.settled) == 9
    assert len(world.letters()) == 3


class TooFew(InBatches):
    def handle_batch(self, messages: list[Message], db: Any) -> list[Any]:
        answers = super().handle_batch(messages, db)
        return answers[1:] if any(message.body.startswith(b"bad") for message in messages) else answers


def test_a_list_of_answers_that_does_not_fit_acknowledges_nobody(build: Build) -> None:
    world = build(TooFew)
    world.send("a,1", "b,1", "bad,1", "c,1")
    world.run()
    assert world.volumes() == {"a": 1, "b": 1, "c": 1}
    assert [letter.body for letter in world.letters()] == [b"bad,1"]


def test_a_drain_leaves_what_was_not_begun(build: Build) -> None:
    world = build()
    world.on_point = lambda point: setattr(world, "draining", world.draining or point == "after-handle")
    world.send("a,1", "b,2", "c,3")
    world.run()
    assert world.volumes() == {"a": 1}
    assert world.source.given_back == [2, 3]
    world.on_point, world.draining = lambda _point: None, False
    world.run()
    assert world.volumes() == {"a": 1, "b": 2, "c": 3}


def test_nothing_is_begun_while_draining(build: Build) -> None:
    world = build()
    world.draining = True
    world.send("a,1", "b,2")
    world.run()
    assert world.source.given_back == [1, 2]
    assert world.points == ["after-take"]


def test_what_failed_just_before_a_drain_still_gets_its_dead_letter(build: Build) -> None:
    world = build()
    world.on_point = lambda point: setattr(world, "draining", world.draining or point == "after-inbox")
    world.send("a,1,raise", "b,2")
    world.run()
    assert world.outcomes() == [(FAILED, b"FALSE")]
    assert world.source.given_back == [2]


class Slow(ByName):
    """Each message takes 30 ms."""

    world: World

    def one(self, message: Message, db: Any) -> Any:
        self.world.clock.advance(0.03)
        return super().one(message, db)


def test_an_old_transaction_commits_before_the_next_message_is_begun(build: Build) -> None:
    world = Slow.world = build(Slow, batch_age=0.05)
    world.send(*(f"m{n},1" for n in range(9)))
    world.run()
    assert world.volumes() == {f"m{n}": 1 for n in range(9)}
    assert [len(call) for call in world.source.calls] == [2, 2, 2, 2, 1]
    assert set(world.job.runs.values()) == {1}  # type: ignore[attr-defined]
    assert world.query("SELECT count(*) FROM holdfast_inbox") == [(9,)]


def test_no_more_is_claimed_than_there_is_time_for(build: Build) -> None:
    world = Slow.world = build(Slow, batch_age=0.05)
    world.send(*(f"m{n},1" for n in range(100)))
    world.run()
    assert world.volumes() == {f"m{n}": 1 for n in range(100)}
    assert world.connection is not None
    assert world.connection.claimed < 400


class Asks(Job):
    schema = SCHEMA

    def handle(self, message: Message, db: Any) -> None:
        db.execute("INSERT INTO account (name, volume) VALUES ('a', 1)")
        if message.attempt < 3:
            raise Retry("later", after=0.5)


def test_a_retry_undoes_its_writes_and_comes_again(build: Build) -> None:
    world = build(Asks, retries=5)
    world.send("x")
    world.run()
    assert world.source.retries == [(1, 0.5, "later"), (1, 0.5, "later")]
    assert world.volumes() == {"a": 1}
    assert world.counters() | {"handled": 1, "failed": 2, "retried": 2, "dead": 0} == world.counters()


class Nonsense(Job):
    def handle(self, message: Message) -> None:
        raise Retry(ValueError("x"), after="soon")  # type: ignore[arg-type]


@pytest.mark.parametrize("answers", [True, False])
def test_attempts_end_and_nobody_waits_beyond_answer_within(build: Build, answers: bool) -> None:
    world = build(Nonsense, retries=3, answers=answers, backoff=(2.0, 300.0))
    world.send("x")
    world.run()
    assert [delay for _seq, delay, _reason in world.source.retries] == [1.5, 3.0, 6.0]
    assert world.outcomes() == [(FAILED, b"FALSE")]
    late = build(Nonsense, retries=3, answers=answers, backoff=(2.0, 300.0))
    late.source._last = 100
    late.send("x")
    late.clock.advance(9.0)
    late.run()
    assert len(late.source.retries) == (0 if answers else 3)


class Looks(Job):
    """Notes what it is given, and what the board shows meanwhile."""

    world: World
    seen: list[Any]

    def handle(self, message: Message, *, db: Any = None) -> bytes:
        message.extend(99)
        since, deadline, count = self.world.writer.threads[0].read()
        self.seen.append((message.id, message.source, message.received_at, message.attempt, dict(message.headers), db))
        self.seen.append(((deadline - since) / 1e9, count))
        return b"\x00raw"


def test_what_a_handler_gets_and_what_the_board_shows(build: Build) -> None:
    world = Looks.world = build(Looks)
    Looks.seen = []
    world.source.put(b"x", attempt=2, headers={"k": "v"})
    world.clock.advance(3.0)
    world.run()
    (identifier, source, at, attempt, headers, db), board = Looks.seen
    assert (identifier, source, attempt, headers, db) == ("7-1", "memory://", 2, {"k": "v"}, None)
    assert time.time() - at >= 3.0
    assert board == (99.0, 1)
    assert world.writer.threads[0].read() == (0, 0, 0)
    assert world.outcomes() == [(DONE, b"\x00raw")]


def test_without_an_inbox_a_redelivered_message_runs_again(build: Build) -> None:
    world = build(ByName, inbox=False)
    world.send("a,1", "a,1", "b,1,raise")
    world.run()
    assert world.volumes() == {"a": 2}
    assert world.query("SELECT count(*) FROM holdfast_inbox") == [(0,)]
    assert len(world.letters()) == 1


def test_old_identities_are_forgotten_while_work_goes_on(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.worker.cleaning.STEP", 5)
    world = build(ByName, inbox_keep=50.0)
    world.send(*(f"old{n},1" for n in range(4)))
    world.run()
    world.store._once(lambda core: core.exec_driver_sql("UPDATE holdfast_inbox SET seen_at = seen_at - 100"))
    for n in range(4):
        world.send(f"new{n},1")
        world.run()
    assert len(world.query("SELECT 1 FROM holdfast_inbox")) == 4
    world.store._once(lambda core: core.exec_driver_sql("UPDATE holdfast_inbox SET seen_at = seen_at - 100"))
    world.engine.retry_letters()
    assert world.query("SELECT 1 FROM holdfast_inbox") == []


def test_an_inbox_that_cannot_be_cleaned_holds_nothing_up(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.worker.cleaning.STEP", 1)
    world = build(ByName)
    world.store.clean = lambda keep, most: 1 / 0
    world.send("a,1")
    world.run()
    assert world.volumes() == {"a": 1}
