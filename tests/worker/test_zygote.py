from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from nursery import STANDIN, Nursery, Ward, until

import holdfast.process

FEE = """
import os
from holdfast import Job

class Fee(Job):
    source = "zmq+rep://127.0.0.1:1"
    processes = 2

    def handle(self, message):
        return f"{os.getpid()} {message.text}".encode()
"""


def fds_of(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]


def children_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def test_declares_what_it_loaded(nursery: Nursery) -> None:
    packet = nursery.loaded(FEE)
    assert packet["default"] == ["Fee"]
    (fee,) = packet["jobs"]
    assert (fee["cls"], fee["work"], fee["options"]["processes"]) == ("Fee", "handle", 2)
    assert fee["file"] == str(nursery.folder / "fee.py")


def test_the_main_block_does_not_run_and_output_is_printed_once(nursery: Nursery) -> None:
    nursery.loaded(FEE + 'print("imported", end="")\nif __name__ == "__main__":\n    raise SystemExit(9)\n')
    ward = nursery.spawn().active()
    ward.say({"do": "drain"})
    ward.expect("drained")
    assert ward.wait() == 0
    assert nursery.log.read_text().count("imported") == 1
    assert "imported" not in ward.log.read_text()


def test_imports_siblings_and_dotted_modules(nursery: Nursery) -> None:
    package = nursery.folder / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jobs.py").write_text(FEE)
    assert nursery.loaded("", app="shop.jobs")["default"] == ["Fee"]


@pytest.mark.parametrize(
    ("text", "reason", "trace"),
    [
        ("def broken(:\n", "fee.py:1: SyntaxError: invalid syntax", "def broken(:"),
        ("\nimport nowhere_to_be_found\n", "fee.py:2: ModuleNotFoundError: No module named 'nowhere_to_be_found'", 'fee.py", line 2'),
        ("import sys\nsys.exit(3)\n", "fee.py:2: the application called sys.exit(3)", "SystemExit: 3"),
        ("x = 1\n", "no Job in this file", ""),
        ("from holdfast import Job\nclass Fee(Job):\n    pass\n", "fee.py:2: Fee has no work", ""),
    ],
)
def test_a_failing_import_says_why_and_ends(nursery: Nursery, text: str, reason: str, trace: str) -> None:
    zygote = nursery.start(text)
    packet = zygote.expect("failed")
    assert reason in packet["reason"]
    assert packet["exit"] == 1
    told = zygote.trace()
    assert trace in told
    if "holdfast.errors" not in told:
        assert "holdfast/worker" not in told
        assert "importlib" not in told
    assert nursery.process.wait() == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("import threading\nthreading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n", "thread 'poller'"),
        ("import socket\ns = socket.create_server(('127.0.0.1', 0))\n", "a socket on 127.0.0.1:"),
        ("import os\nends = os.pipe()\n", "an open pipe"),
        ("import sqlite3\ndb = sqlite3.connect('x.db')\ndb.execute('CREATE TABLE t (a)')\ndb.commit()\n", "an open SQLite database"),
    ],
)
def test_what_cannot_be_forked_refuses_the_generation_and_is_named(nursery: Nursery, text: str, named: str) -> None:
    packet = nursery.start(text + FEE).expect("failed")
    assert named in packet["reason"]
    assert 'spawn = "exec"' in packet["reason"]


def test_a_thread_that_has_ended_and_an_open_file_are_fine(nursery: Nursery) -> None:
    nursery.loaded("import threading\nt = threading.Thread(target=int)\nt.start()\nt.join()\nf = open(__file__)\n" + FEE)


def test_a_worker_of_its_own_interpreter(nursery: Nursery) -> None:
    text = "import threading\nthreading.Thread(target=threading.Event().wait, name='poller', daemon=True).start()\n"
    nursery.loaded("import standin_engine\n" + text + FEE, allow_threads=True)
    refused = nursery.try_spawn()
    assert isinstance(refused, dict)
    assert refused["say"] == "spawn-failed"
    assert "thread 'poller'" in refused["reason"]
    ward = nursery.spawn(spawn="exec").active()
    ward.deliver(b"one")
    assert ward.settled(1) == [[1, 0, f"{ward.pid} one".encode()]]
    ward.say({"do": "drain"})
    ward.expect("drained")
    assert ward.wait() == 0


def test_a_child_is_clean(nursery: Nursery) -> None:
    text = FEE.replace(
        "        return",
        """        import random, signal
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        usual = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD}
        default = all(signal.getsignal(s) is signal.SIG_DFL for s in usual)
        return f"{os.getsid(0) == os.getpid()} {blocked} {default} {random.random()}".encode()
        return""",
    )
    nursery.loaded(
        "import signal, random\nrandom.seed(1)\nsignal.signal(signal.SIGUSR1, print)\nsignal.pthread_sigmask(signal.SIG_BLOCK, {15})\n"
        + text
    )
    wards = [nursery.spawn().active(), nursery.spawn().active()]
    answers = []
    for ward in wards:
        ward.deliver(b"x")
        session, blocked, default, number = ward.settled(1)[0][2].decode().split()
        assert (session, blocked, default) == ("True", "set()", "True")
        answers.append(number)
        assert Path(f"/proc/{ward.pid}/comm").read_text() == "hf:Fee/0\n"
        assert os.readlink(f"/proc/{ward.pid}/fd/0") == os.devnull
        # log twice, null, channel, data, stacks, wake, epoll; nothing of the zygote's, and nothing of the other worker's
        assert len(fds_of(ward.pid)) <= 9
    assert answers[0] != answers[1]


def test_death_of_the_zygote_is_not_felt_and_its_twin_goes_on(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    twin = nursery.spawn("twin")
    twin.expect("twin")
    first = nursery.spawn().active()
    (nursery.folder / "fee.py").write_text("broken now")
    nursery.process.kill()
    nursery.process.wait()
    first.deliver(b"one")
    assert first.settled(1)[0][2].endswith(b" one")
    second = nursery.spawn(by=twin).active()
    second.deliver(b"two")
    assert second.settled(1)[0][2].endswith(b" two")
    grandson = nursery.spawn("twin", by=twin)
    grandson.expect("twin")
    twin.channel.close()
    assert twin.wait() == 0
    third = nursery.spawn(by=grandson).active()
    third.deliver(b"three")
    assert third.settled(1)[0][2].endswith(b" three")


LAZY = """
from holdfast import Job

class Fee(Job):
    def handle(self, message):
        import shop.prices, tariff
        from importlib.resources import files
        try:
            tariff.fail()
        except ValueError:
            import traceback
            line = next(line for line in traceback.format_exc().splitlines() if "raise" in line).strip()
        return f"{tariff.version} {shop.prices.price()} {files('shop').joinpath('fee.sql').read_text()} {line}".encode()
"""
TARIFF = "version = 1\n\ndef fail():\n    raise ValueError  # one\n"


def changed(folder: Path) -> None:
    (folder / "tariff.py").write_text(TARIFF.replace("1", "2").replace("one", "two"))
    (folder / "shop" / "prices.py").write_text("def price():\n    return 'other'\n")
    (folder / "shop" / "fee.sql").write_text("other")


def broken(folder: Path) -> None:
    for file in (folder / "tariff.py", folder / "shop" / "__init__.py", folder / "fee.py"):
        file.write_text("def (:\n")


def half_copied(folder: Path) -> None:
    (folder / "tariff.py").write_text(TARIFF[:30])
    (folder / "shop" / "prices.py").write_bytes(b"\0\0")
    (folder / "shop" / "__init__.py").unlink()


def deleted(folder: Path) -> None:
    for file in (*folder.rglob("*.py"), folder / "shop" / "fee.sql"):
        file.unlink()
    (folder / "shop").rmdir()


@pytest.mark.parametrize("change", [changed, broken, half_copied, deleted])
def test_what_was_loaded_runs_whatever_becomes_of_the_files(nursery: Nursery, change: Callable[[Path], None]) -> None:
    shop = nursery.folder / "shop"
    shop.mkdir()
    (shop / "__init__.py").touch()
    (shop / "prices.py").write_text("def price():\n    return 'loaded'\n")
    (shop / "fee.sql").write_text("SELECT 1")
    (nursery.folder / "tariff.py").write_text(TARIFF)
    nursery.loaded(LAZY)
    twin = nursery.spawn("twin")
    twin.expect("twin")
    early = nursery.spawn().active()
    change(nursery.folder)
    wards = [early, nursery.spawn().active()]
    nursery.process.kill()
    nursery.process.wait()
    wards.append(nursery.spawn(by=twin).active())
    grandson = nursery.spawn("twin", by=twin)
    grandson.expect("twin")
    wards.append(nursery.spawn(by=grandson).active())
    for ward in wards:
        ward.deliver(b"x")
        assert ward.settled(1)[0][2] == b"1 loaded SELECT 1 raise ValueError  # one"


def test_the_next_load_has_the_new_files_and_not_the_deleted(nursery: Nursery) -> None:
    (nursery.folder / "tariff.py").write_text("version = 1\n")
    nursery.loaded("import tariff\n" + FEE)
    nursery.close_zygote()
    (nursery.folder / "tariff.py").unlink()
    assert "No module named 'tariff'" in nursery.start("import tariff\n" + FEE).expect("failed")["reason"]


def test_a_dotted_module_from_a_folder_of_packages(nursery: Nursery) -> None:
    """Only that package is the application's."""
    site = nursery.folder / "lib" / "site-packages"
    (site / "shop").mkdir(parents=True)
    (site / "shop" / "__init__.py").write_text("import stranger\n")
    (site / "stranger.py").write_text("name = 'stranger'\n")
    (site / "shop" / "late.py").write_text("name = 'late'\n")
    text = FEE.replace("        return", "        import shop, shop.late as late, stranger\n        return", 1)
    shown = "{late.name} {type(stranger.__loader__).__name__} {type(shop.__loader__).__name__}"
    (site / "shop" / "jobs.py").write_text(text.replace("{message.text}", shown))
    nursery.environment["PYTHONPATH"] = os.pathsep.join([STANDIN, str(Path(holdfast.process.__file__).parent.parent), str(site)])
    nursery.loaded("", app="shop.jobs")
    (site / "shop" / "late.py").unlink()
    ward = nursery.spawn().active()
    ward.deliver(b"x")
    assert ward.settled(1)[0][2].split()[1:] == [b"late", b"SourceFileLoader", b"TreeLoader"]


def test_an_application_too_large_for_memory_says_so(nursery: Nursery) -> None:
    for number in range(5_001):
        (nursery.folder / f"part{number}.py").touch()
    nursery.loaded(FEE)
    assert '"event":"snapshot.incomplete"' in nursery.log.read_text()


def test_many_spawns_leak_nothing(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    before = sorted(fds_of(nursery.process.pid))
    for _ in range(300):
        ward = nursery.spawn()
        ward.kill()
        assert ward.wait() == -signal.SIGKILL
        ward.channel.close()
        ward.data.close()
        os.close(ward.stacks)
        nursery.wards.remove(ward)
    assert sorted(fds_of(nursery.process.pid)) == before
    assert children_of(nursery.process.pid) == ""


def test_a_spawn_that_cannot_be_is_refused_and_leaks_nothing(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    before = sorted(fds_of(nursery.process.pid))
    answer = nursery.try_spawn(cls="Other")
    assert isinstance(answer, dict)
    assert (answer["say"], answer["reason"]) == ("spawn-failed", "no Job class 'Other' in this generation")
    assert sorted(fds_of(nursery.process.pid)) == before
    assert isinstance(nursery.spawn(), Ward)


@pytest.mark.parametrize("told", [True, False])
def test_leaves_when_told_and_at_the_end_of_its_channel(nursery: Nursery, told: bool) -> None:
    nursery.loaded("import atexit\natexit.register(print, 'the exit handler ran', flush=True)\n" + FEE)
    if told:
        nursery.zygote.say({"do": "leave"})
    else:
        nursery.zygote.channel.close()
    assert nursery.process.wait() == 0
    assert "exit handler" not in nursery.log.read_text()


def test_a_killed_worker_is_reaped_by_its_supervisor(nursery: Nursery) -> None:
    nursery.loaded(FEE)
    ward = nursery.spawn().active()
    assert children_of(nursery.process.pid) == ""
    ward.kill()
    assert ward.wait() == -signal.SIGKILL
    until(ward.at_end, "the end of the channel")


@pytest.mark.parametrize("schemes", [[], ["zmq+rep", "sqlite"]])
def test_a_rehearsal_leaves_nothing_behind(nursery: Nursery, schemes: list[str]) -> None:
    nursery.loaded(FEE, preload=())
    zygote, pid = nursery.zygote, nursery.process.pid
    fds = sorted(fds_of(pid))
    zygote.say({"do": "use", "schemes": schemes})
    ward = nursery.spawn().active()  # answered when the rehearsals are over
    assert sorted(fds_of(pid)) == fds
    assert os.listdir(f"/proc/{pid}/task") == [str(pid)]
    assert nursery.log.read_text() == ""
    ward.deliver(b"x")
    assert ward.settled(1)[0][2] == f"{ward.pid} x".encode()
