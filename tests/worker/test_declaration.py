from __future__ import annotations

import abc
from typing import Any

import pytest

from holdfast.errors import AppError, ConfigurationError
from holdfast.model.declaration import declare, imported_by, jobs_of
from holdfast.model.job import Job


class Fee(Job):
    source = "zmq+rep://127.0.0.1:5555"
    threads = 2
    backoff = ["1s", "5m"]
    note = "mine"
    schema = "CREATE TABLE fee"

    def handle(self, message: Any, db: Any) -> str:
        return "TRUE"

    def identity(self, message: Any) -> str:
        return message.text


class Loader(Job):
    def run(self) -> None:
        """Nothing."""


def module(*classes: type, name: str = __name__) -> dict[str, Any]:
    return {"__name__": name, "__file__": "/srv/fee.py", "other": 1, **{cls.__name__: cls for cls in classes}}


def test_what_a_class_declares() -> None:
    fee = declare(Fee)
    assert (fee.cls, fee.work, fee.identity, fee.key, fee.creates) == ("Fee", "handle", True, False, True)
    assert fee.options == {"source": "zmq+rep://127.0.0.1:5555", "threads": 2, "backoff": ["1s", "5m"]}
    assert fee.file == __file__
    with open(__file__) as file:
        assert file.read().splitlines()[fee.line - 1] == "class Fee(Job):"
    assert (declare(Loader).work, declare(Loader).creates, declare(Loader).options) == ("run", False, {})


@pytest.mark.parametrize(
    ("handle", "needs"),
    [
        (lambda self, message, db: None, True),
        (lambda self, message: None, False),
        (lambda self, message, db=None: None, False),
        (lambda self, *message: None, False),
    ],
)
def test_a_handler_that_cannot_do_without_db_says_so(handle: Any, needs: bool) -> None:
    assert declare(type("Some", (Job,), {"handle": handle})).needs_db is needs
    assert declare(Loader).needs_db is False


def test_options_are_inherited_and_the_nearest_counts() -> None:
    class Faster(Fee):
        threads = 8

        @classmethod
        def prepare(cls, db: Any) -> None:
            """Tables."""

    assert declare(Faster).options == {**declare(Fee).options, "threads": 8}


class Base(Job):
    def handle(self, message: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "has no work; give it one of handle"),
        ({"handle": lambda self, message: None, "run": lambda self: None}, "defines both handle and run; keep one"),
        (
            {"handle": lambda self, message: None, "handle_batch": lambda self, messages: None, "run": lambda self: None},
            "defines both handle, handle_batch and run; keep one",
        ),
        ({"handle": lambda self: None}, "handle(self) cannot be called; write it as def handle(self, message, db)"),
        ({"handle": lambda self, a, b, c: None}, "handle(self, a, b, c) cannot be called"),
        ({"handle_batch": lambda self, *, messages: None}, "write it as def handle_batch(self, messages, db)"),
        ({"run": lambda self, x: None}, "write it as def run(self)"),
        ({"run": lambda self: None, "proceses": 4}, "sets proceses, which is not an option; did you mean processes?"),
        ({"run": lambda self: None, "Timeout": "3s"}, "did you mean timeout?"),
        ({"run": lambda self: None, "threads": object()}, "threads is a object"),
        ({"run": lambda self: None, "__init__": lambda self, x: None}, "constructor wants arguments"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(body: dict[str, Any], message: str) -> None:
    cls = type("Wrong", (Job,), body)
    with pytest.raises(ConfigurationError) as error:
        declare(cls)
    assert message in str(error.value)
    assert error.value.where
    assert error.value.remedy


def test_async_work_is_refused() -> None:
    class Later(Job):
        async def handle(self, message: Any) -> None:
            """Not yet."""

    with pytest.raises(ConfigurationError, match="not a plain method"):
        declare(Later)


@pytest.mark.parametrize(
    "handle",
    [
        lambda self, message: None,
        lambda self, message, db: None,
        lambda self, m, db=None: None,
        lambda self, *args: None,
        lambda self, message, db, extra=1: None,
    ],
)
def test_ways_to_write_handle(handle: Any) -> None:
    assert declare(type("Fine", (Job,), {"handle": handle})).work == "handle"


def test_names_of_ones_own_are_left_alone() -> None:
    body = {"run": lambda self: None, "_proceses": 4, "rate": 3, "table": "fee", "batches": property(lambda self: 1)}
    assert declare(type("Fine", (Job,), body)).options == {}


def test_defined_here_or_declared() -> None:
    imported = type("Imported", (Job,), {"run": lambda self: None, "__module__": "elsewhere"})
    assert jobs_of(module(Fee, Loader)) == [Fee, Loader]
    assert jobs_of(module(Fee, imported)) == [Fee]
    assert jobs_of(module(Fee, imported), [imported, Fee]) == [Fee, imported]
    assert jobs_of({**module(Fee), "Alias": Fee}) == [Fee]
    assert imported_by(module(Fee, imported)) == [imported]
    assert jobs_of(module(imported)) == []


def test_bases_are_not_jobs() -> None:
    class Bare(Job):
        table = "x"

    class Mine(Bare):
        def run(self) -> None:
            """Nothing."""

    class Abstract(Job, abc.ABC):
        @abc.abstractmethod
        def handle(self, message: Any) -> None:
            """Told by others."""

    assert jobs_of(module(Bare, Mine, Abstract)) == [Mine]
    assert jobs_of(module(Bare)) == [Bare]  # so that it is told to have no work


def test_no_job_at_all() -> None:
    with pytest.raises(AppError, match=r"^/srv/fee.py: no Job in this file; define a class"):
        jobs_of({**module(), "Job": Job})
