from __future__ import annotations

import os
import subprocess
import sys

import pytest

from holdfast.worker import rehearsal


def test_messages_are_handled_and_no_setting_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    handled = []
    job = rehearsal._job

    def watched(supervisor: object) -> type:
        cls = job(supervisor)
        handle = cls.handle
        cls.handle = lambda self, message: handled.append(message) or handle(self, message)
        return cls

    monkeypatch.setattr(rehearsal, "_job", watched)
    monkeypatch.setattr(rehearsal, "_PATIENCE", 60.0)
    interval, environ = sys.getswitchinterval(), dict(os.environ)
    for store in ("", "sqlite://"):
        rehearsal.rehearse(1, store)
    assert len(handled) == 2 * rehearsal._MESSAGES
    assert (sys.getswitchinterval(), dict(os.environ)) == (interval, environ)


def test_it_ends_where_nothing_is_ever_handled(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """As with a library that makes threads out of something else."""
    monkeypatch.setattr(rehearsal, "_PATIENCE", 0.05)
    monkeypatch.setattr("holdfast.worker.threads.Crew.start", lambda self: None)
    rehearsal.rehearse(9)
    assert capfd.readouterr().err.count("zygote.rehearsal") == 1


def test_a_failure_is_told_and_does_no_harm(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    rehearsal.rehearse(1, "mysql://nobody@nowhere.invalid/x")
    assert "zygote.rehearsal" in capfd.readouterr().err


FREEZE = """
import sys
from holdfast.worker import freezing
moved = [bytes(200 - 33) for _ in range(int(sys.argv[1]))]
kept = [bytes(200 - 33) for _ in range(600)]
del kept[::2]
pages = {id(block) >> 12 for block in kept}
freezing.freeze()
fresh = [bytes(200 - 33) for _ in range(20)]
print(len({id(block) >> 12 for block in fresh} & pages))
"""


@pytest.mark.parametrize("moved", [0, 1])
def test_what_is_made_after_a_freeze_lies_in_pools_of_its_own(moved: int) -> None:
    """With one of the two a pool's first block is among the holes."""
    words = [sys.executable, "-c", FREEZE, str(moved)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "0\n"
