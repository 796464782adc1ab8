"""What a service manager is told, and when."""

import itertools
from dataclasses import replace

import pytest

from holdfast.model.notify import LONGEST_STATUS, NOBODY_WATCHES, JobLook, Manager, Phase, Said, Standing, for_children, status_line, words

RUNNING = Standing(7, "running")
STARTING = Standing(7, "starting", limit=40.0)
READY, RELOADING = ["READY=1", "MAINPID=7"], ["RELOADING=1", "MONOTONIC_USEC=10000000"]
PATH = {"NOTIFY_SOCKET": "/run/notify"}


@pytest.mark.parametrize(
    ("said", "standing", "told"),
    [
        (Said(), STARTING, ["EXTEND_TIMEOUT_USEC=45000000"]),
        (Said(Phase.STARTING), STARTING, []),
        (Said(Phase.STARTING), RUNNING, READY),
        (Said(Phase.STARTING), replace(RUNNING, follows=True), READY),  # a reload that waited for the start
        (Said(Phase.READY), RUNNING, []),
        (Said(Phase.READY), replace(RUNNING, changing=True, change=9.0), RELOADING),
        (Said(Phase.CHANGING, 9.0), replace(RUNNING, changing=True, change=9.0), []),
        (Said(Phase.CHANGING, 9.0), replace(RUNNING, follows=True, change=9.0), []),  # the next one begins at once
        (Said(Phase.CHANGING, 9.0), replace(RUNNING, changing=True, change=9.5), RELOADING),  # and whoever asked for that one waits for it
        (Said(Phase.CHANGING, 9.0), RUNNING, READY),
        (Said(Phase.READY), Standing(7, "stopping", restarting=True), RELOADING),
        (Said(Phase.CHANGING), Standing(7, "stopping", limit=11.0), ["STOPPING=1", "EXTEND_TIMEOUT_USEC=16000000"]),
        (Said(Phase.READY), Standing(7, "stopping", limit=9.0), ["STOPPING=1", "EXTEND_TIMEOUT_USEC=15000000"]),
        (Said(Phase.STOPPING), Standing(7, "stopping"), []),
    ],
)
def test_a_change_is_told_once_and_from_whatever_was_told_before(said: Said, standing: Standing, told: list[str]) -> None:
    found, after = words(said, standing, 10.0)
    assert found == told
    assert words(after, standing, 11.0) == ([], after)


def test_a_status_goes_with_the_news_or_alone_and_once() -> None:
    told, said = words(Said(Phase.STARTING), replace(RUNNING, status="fine"), 10.0)
    assert told == [*READY, "STATUS=fine"]
    assert words(said, replace(RUNNING, status="fine"), 11.0) == ([], said)
    assert words(said, replace(RUNNING, status="less"), 11.0)[0] == ["STATUS=less"]


def test_whatever_was_not_heard_the_last_word_is_true() -> None:
    """In every history, with any messages lost on the way and known to be."""
    course = [
        STARTING,
        RUNNING,
        replace(RUNNING, changing=True, change=1.0),
        replace(RUNNING, follows=True, change=1.0),
        replace(RUNNING, changing=True, change=2.0),
        replace(RUNNING, change=2.0),
    ]
    for heard in itertools.product([True, False], repeat=len(course)):
        said, believed = Said(), ""
        for standing, through in zip([*course, course[-1]], [*heard, True], strict=True):
            told, after = words(said, standing, 5.0)
            if through:
                said = after
                believed = told[0] if told and told[0].partition("=")[0] in ("READY", "RELOADING") else believed
        assert believed == "READY=1", heard


@pytest.mark.parametrize(
    ("environ", "manager"),
    [
        ({}, Manager()),
        ({"WATCHDOG_USEC": "5"}, Manager()),
        (PATH, Manager("/run/notify")),
        ({"NOTIFY_SOCKET": "@name"}, Manager("@name")),
        ({**PATH, "WATCHDOG_USEC": "3000000"}, Manager("/run/notify", 3.0)),
        ({**PATH, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, Manager("/run/notify", 3.0)),
        ({**PATH, "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, Manager("/run/notify")),
    ],
)
def test_who_has_started_us(environ: dict[str, str], manager: Manager) -> None:
    assert Manager.of(environ, 7) == manager


@pytest.mark.parametrize(
    ("environ", "flaw"),
    [
        ({"NOTIFY_SOCKET": "@"}, "NOTIFY_SOCKET=@ is neither"),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, "NOTIFY_SOCKET=vsock:2:1234 is neither"),
        *[({**PATH, "WATCHDOG_USEC": usec}, f"WATCHDOG_USEC={usec} is no number") for usec in ("0", "-1", "1s", "²")],
    ],
)
def test_what_makes_no_sense_is_named_and_not_used(environ: dict[str, str], flaw: str) -> None:
    manager = Manager.of(environ, 7)
    assert manager.flaw.startswith(flaw)
    assert manager.interval == NOBODY_WATCHES


def test_children_know_nothing_of_it() -> None:
    assert for_children({**PATH, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_the_status_is_one_line_with_the_trouble_first() -> None:
    jobs = [JobLook("Fee", "running", "", 2), JobLook("Mail", "paused", "store away:\nrefused", 1), JobLook("Log", "running", "", 1)]
    assert (
        status_line("running, generation 3", "", jobs)
        == "running, generation 3; Mail paused (store away: refused), Fee 2 workers, Log 1 worker"
    )
    assert status_line("stopping", "draining workers") == "stopping: draining workers"
    many = [JobLook(f"Job{n}", "running", "", 2) for n in range(100)]
    cut = status_line("running", "", many, "Broken\nis it")
    assert len(cut) == LONGEST_STATUS
    assert cut.startswith("running; the last reload was refused: Broken is it; Job0 2 workers")
