"""A disk that is full: the job pauses and says why, nothing that was answered is lost, and nobody is to blame."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from crowd import effects

from holdfast.testing.crowd import Crowd
from holdfast.testing.daemon import DaemonProcess, eventually

Make = Callable[..., DaemonProcess]


def test_a_full_disk_pauses_the_job_and_loses_nothing(make: Make) -> None:
    daemon = make()
    daemon.start()
    with Crowd(daemon.port, reqs=4, window=20) as crowd:  # type: ignore[attr-defined]
        eventually(lambda: crowd.answered > 50, "the load has begun")
        worker = daemon.workers()[0]["pid"]
        room = resource.prlimit(worker, resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))  # no file may grow, nor be written so far in
        eventually(lambda: "store.away" in daemon.log(), "the store has said so")
        eventually(lambda: daemon.log().count("job.paused") and _job(daemon)["state"] == "paused", "the job pauses")
        assert "store away" in str(_job(daemon)["reason"])
        asked = time.monotonic() + 1.5  # it is looked several times meanwhile whether there is room
        eventually(lambda: time.monotonic() > asked, "some probes")
        before = crowd.answered
        resource.prlimit(worker, resource.RLIMIT_FSIZE, room)
        eventually(lambda: crowd.answered > before + 50, "it goes on when there is room")
    assert crowd.unanswered == set()
    assert {answer for answers in crowd.answers.values() for answer in answers} == {b"TRUE"}
    assert effects(daemon.folder / "add.db") == dict.fromkeys(crowd.answers, 1)
    assert _job(daemon)["dead"] == 0
    eventually(lambda: daemon.log().count("store.back"), "its return is in the log")
    assert daemon.log().count("store.back") == daemon.log().count("store.away") == 1, "it does not come and go while the disk is full"


def _job(daemon: DaemonProcess) -> dict[str, object]:
    job: dict[str, object] = daemon.status()["jobs"][0]
    return job
