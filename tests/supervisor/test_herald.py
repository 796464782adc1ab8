"""The sender: no manager can stop or delay it."""

import socket
from pathlib import Path

import pytest

from holdfast.model.notify import NOBODY_WATCHES, Manager, Phase, Standing
from holdfast.supervisor import notify
from holdfast.supervisor.notify import Herald

RUNNING = Standing(7, "running")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    monkeypatch.setattr(notify.events, "log", lambda event, text="", **_fields: lines.append((event, text)))
    return lines


def _bound(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    sock.bind(str(path))
    return sock


def test_who_cannot_be_told_is_named_once_and_told_when_he_is_there(tmp_path: Path, logged: list[tuple[str, str]]) -> None:
    place = tmp_path / "notify"
    herald = Herald(Manager(str(place)), lambda: RUNNING)
    herald.tell(1.0)
    place.touch()
    herald.tell(2.0)
    place.unlink()
    assert [event for event, _ in logged] == ["notify.failed"]
    assert str(place) in logged[0][1]
    assert herald.said.phase is Phase.SILENT
    with _bound(place) as manager:
        herald.tell(3.0)
        herald.tell(4.0)
        assert manager.recv(4096) == b"READY=1\nMAINPID=7"
        with pytest.raises(BlockingIOError):
            manager.recv(4096)


def test_a_path_that_is_too_long_is_one_that_cannot_be_told(logged: list[tuple[str, str]]) -> None:
    Herald(Manager("/" + "x" * 200), lambda: RUNNING).tell(1.0)
    assert [event for event, _ in logged] == ["notify.failed"]


def test_what_makes_no_sense_is_logged(logged: list[tuple[str, str]]) -> None:
    Herald(Manager(flaw="what?"), lambda: RUNNING).tell(1.0)
    assert logged == [("notify.failed", "what?")]


def test_nobody_is_told_and_nothing_looked_at_without_a_manager() -> None:
    herald = Herald(Manager(), lambda: pytest.fail("looked"))
    herald.tell(1.0)
    assert herald.next_beat == NOBODY_WATCHES


def test_the_watchdog_is_fed_twice_in_its_interval_unless_something_is_overdue(tmp_path: Path, logged: list[tuple[str, str]]) -> None:
    with _bound(tmp_path / "notify") as manager:
        herald = Herald(Manager(str(tmp_path / "notify"), 4.0), lambda: RUNNING)
        assert herald.next_beat <= 10.0, "at once: after an upgrade nobody knows when it was fed last"
        herald.beat(10.0, behind=-float("inf"))
        assert (manager.recv(4096), herald.next_beat) == (b"WATCHDOG=1", 12.0)
        herald.beat(12.5, behind=1.9)
        assert (manager.recv(4096), herald.next_beat) == (b"WATCHDOG=1", 14.5)
        herald.beat(14.5, behind=2.0)
        with pytest.raises(BlockingIOError):
            manager.recv(4096)
        assert logged == [("watchdog.not-fed", "something is 2.0 s overdue")]
        assert herald.next_beat < 14.5 + 2.0, "it is looked at again before it is too late"
