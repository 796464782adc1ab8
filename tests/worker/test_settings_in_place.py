"""Settings that reach workers which are there: taken by every thread between two messages, or by none."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from nursery import Nursery, Ward, readable, until

from holdfast.linux.channel import to_memfd

OLD, NEW = "[db]\nuser=old\n", "[db]\nuser=new\n"
FEE = """
import os, threading, time
from holdfast import Job

class Fee(Job):
    brief = False

    def setup(self):
        self.seen = []

    def reload(self, settings):
        assert settings is self.settings
        user = settings["db"]["user"]
        self.seen.append(user)
        print("reload", user, "on", threading.current_thread().name, flush=True)
        if user == "refused" and threading.current_thread().name == "Fee-1":
            raise ValueError("not that one")
        if user == "never":
            while True:
                time.sleep(60)

    def handle(self, message):
        word, _, rest = message.text.partition(" ")
        if word == "block":
            open(rest + ".began", "w").close()
            while not os.path.exists(rest):
                time.sleep(0.002)
        return f"{self.settings['db']['user']} {','.join(self.seen)} {type(self).settings['db']['user']}".encode()
"""


def hand_out(ward: Ward, text: str, number: int = 1) -> None:
    fd = to_memfd("settings", text.encode())
    ward.say({"do": "reload-settings", "id": number}, [fd])
    os.close(fd)


def spawned(nursery: Nursery, **how: Any) -> Ward:
    return nursery.spawn(settings_path="fee.ini", settings_text=OLD, **how).active()


def answer(ward: Ward, body: bytes = b"x") -> bytes:
    ward.deliver(body)
    return ward.settled(1)[0][2]


def drained(ward: Ward) -> None:
    ward.say({"do": "drain"})
    ward.expect("drained")
    assert ward.wait() == 0


def test_idle_threads_take_them_at_once_each_on_its_own(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery, threads=3, heartbeat=600.0)
    hand_out(ward, NEW, 7)
    assert ward.expect("reloaded")["id"] == 7
    assert sorted(line for line in ward.log.read_text().splitlines() if line.startswith("reload")) == [
        f"reload new on Fee-{n}" for n in range(3)
    ]
    assert answer(ward) == b"new new old"
    ward.say({"do": "keep-settings", "id": 7})
    hand_out(ward, "[db]\nuser=third\n", 8)
    ward.expect("reloaded")
    assert answer(ward) == b"third new,third new"
    drained(ward)


def test_a_busy_thread_takes_them_after_its_message(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery, threads=2, batch=1)
    ward.deliver(b"block here")
    until(lambda: (nursery.folder / "here.began").exists(), "the handler's beginning")
    hand_out(ward, NEW)
    until(lambda: ward.log.read_text().count("reload new") == 1, "the idle thread")
    ward.deliver(b"y", first=2)
    assert ward.settled(1)[0][1:] == [0, b"new new old"]
    assert not readable(ward.channel, 0)
    (nursery.folder / "here").touch()
    assert ward.settled(1)[0][2] == b"old  old"
    ward.expect("reloaded")
    assert ward.log.read_text().count("reload new") == 2


def test_when_one_refuses_all_have_the_old_again(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery, threads=3)
    hand_out(ward, "[db]\nuser=refused\n", 3)
    packet = ward.expect("reload-failed")
    assert (packet["id"], packet["reason"]) == (3, "fee.py:17: ValueError: not that one")
    assert 'raise ValueError("not that one")' in ward.trace()
    hand_out(ward, NEW, 4)
    assert ward.expect("reloaded")["id"] == 4
    told = [line for line in ward.log.read_text().splitlines() if line.startswith("reload")]
    for thread in ("Fee-0", "Fee-1", "Fee-2"):
        given = [line.split()[1] for line in told if line.endswith(thread)]
        assert given in (["refused", "old", "new"], ["refused", "new"], ["new"], ["old", "new"])
    ward.say({"do": "restore-settings", "id": 5})
    assert ward.expect("reloaded")["id"] == 5
    assert answer(ward).startswith(b"old ")


def test_the_refusing_thread_itself_gets_the_old_again(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery, threads=2)
    hand_out(ward, "[db]\nuser=refused\n")
    ward.expect("reload-failed")
    until(lambda: "reload old on Fee-1" in ward.log.read_text(), "the old ones on the thread that refused")
    assert answer(ward).startswith(b"old ")


@pytest.mark.parametrize("text", ["[db\nuser=x\n", "\udcff"])
def test_settings_that_cannot_be_read_change_nothing(nursery: Nursery, text: str) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery)
    fd = to_memfd("settings", text.encode(errors="surrogateescape"))
    ward.say({"do": "reload-settings", "id": 1}, [fd])
    os.close(fd)
    assert "fee.ini:1" in ward.expect("reload-failed")["reason"] or text == "\udcff"
    assert answer(ward) == b"old  old"


def test_another_workers_refusal_takes_them_back(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery, threads=2)
    hand_out(ward, NEW)
    ward.expect("reloaded")
    ward.say({"do": "restore-settings", "id": 1})
    ward.expect("reloaded")
    assert answer(ward) == b"old new,old old"


def test_kept_before_they_are_taken_and_then_refused(nursery: Nursery) -> None:
    """A worker that was born with older ones gets them so: there is no way back, and the refusal is told."""
    nursery.loaded(FEE)
    ward = spawned(nursery, threads=2)
    blocks = [str(nursery.folder / name) for name in ("one", "two")]
    for block in blocks:  # both threads look up after both packets; one at a time, or one of them may take both
        ward.deliver(f"block {block}".encode())
        until(lambda block=block: os.path.exists(f"{block}.began"), "a handler's beginning")
    hand_out(ward, "[db]\nuser=refused\n")
    ward.say({"do": "keep-settings", "id": 1})
    hand_out(ward, "[not INI", 7)
    assert ward.expect("reload-failed")["id"] == 7
    for block in blocks:
        open(block, "w").close()
    until(lambda: ward.log.read_text().count("reload refused") == 2, "both threads")
    ward.expect("reload-failed")
    hand_out(ward, NEW, 2)
    assert ward.expect("reloaded")["id"] == 2


def test_a_thread_that_waits_for_its_store_takes_them(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery)
    ward.deliver(b"pause")
    ward.expect("paused")
    hand_out(ward, NEW)
    packets = {ward.hear()["say"], ward.hear()["say"]}
    assert packets == {"resumed", "reloaded"}
    assert ward.settled(1)[0][2] == b"new new old"


def test_a_reload_that_never_returns_is_hung_and_blames_no_message(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery, timeout=0.1, heartbeat=0.1)
    hand_out(ward, "[db]\nuser=never\n")
    assert ward.expect("hung") == {"say": "hung", "thread": 0, "seqs": []}
    os.kill(ward.pid, signal.SIGKILL)


def test_a_drain_answers_for_those_who_look_no_more(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = spawned(nursery)
    ward.deliver(b"block here")
    until(lambda: (nursery.folder / "here.began").exists(), "the handler's beginning")
    hand_out(ward, NEW)
    ward.say({"do": "drain"})
    ward.expect("reloaded")
    (nursery.folder / "here").touch()
    ward.expect("drained")
    assert ward.wait() == 0


RUN = """
import os, threading, time
from holdfast import Job

class Fee(Job):
    rounds = 0

    def reload(self, settings):
        print("reload", settings["db"]["user"], threading.current_thread().name, flush=True)
        if settings["db"]["user"] == "refused":
            raise ValueError("no")

    def run(self):
        self.rounds += 1
        print("round", self.rounds, self.settings["db"]["user"], flush=True)
        while WAY:
            pass
        print("ended", flush=True)
"""


@pytest.mark.parametrize("way", ["self.sleep(600)", "self.alive() and not time.sleep(0.005)", "self.rounds < 1"])
def test_run_takes_them_where_it_sleeps_or_asks_or_begins_anew(nursery: Nursery, way: str) -> None:
    nursery.loaded(RUN.replace("WAY", way))
    ward = spawned(nursery, source="", interval=600.0 if "rounds" in way else 0.01)
    until(lambda: "round 1 old" in ward.log.read_text(), "the first round")
    hand_out(ward, NEW)
    assert ward.expect("reloaded")["id"] == 1
    assert "reload new Fee-0" in ward.log.read_text()
    ward.say({"do": "keep-settings", "id": 1})
    hand_out(ward, "[db]\nuser=refused\n", 2)
    assert ward.expect("reload-failed")["id"] == 2
    until(lambda: ward.log.read_text().count("reload new") == 2, "those before the refused ones")
    assert "round 2" not in ward.log.read_text()
    drained(ward)
    assert "ended" in ward.log.read_text()


def test_run_takes_them_before_a_round_and_its_interval_is_not_shortened(nursery: Nursery) -> None:
    nursery.loaded(RUN.replace("WAY", "not os.path.exists('go')"))
    ward = spawned(nursery, source="", interval=0.01)
    until(lambda: "round 1 old" in ward.log.read_text(), "the first round")
    hand_out(ward, NEW)
    (nursery.folder / "go").touch()
    ward.expect("reloaded")
    until(lambda: "round 2 new" in ward.log.read_text(), "the next round")
