"""Children are clean: own session, no signal settings, nothing but the descriptors they were given, and nothing of root (G8)."""

import json
import os
import select
import signal
import sys
from pathlib import Path

import pytest

from holdfast.linux import privileges, process
from holdfast.supervisor import offspring

PROBE = """
import json, os, signal, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
status = {k: v.strip() for k, v in status.items()}
fds = sorted(int(n) for n in os.listdir("/proc/self/fd"))
fds = [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]
print(json.dumps({"argv": sys.argv[1:], "sid": os.getsid(0), "pid": os.getpid(), "umask": os.umask(0), "cwd": os.getcwd(),
    "SigBlk": status["SigBlk"], "SigIgn": status["SigIgn"], "Uid": status["Uid"].split(), "Gid": status["Gid"].split(),
    "Groups": status["Groups"].split(), "NoNewPrivs": status["NoNewPrivs"], "CapBnd": status["CapBnd"], "fds": fds,
    "null": os.readlink("/proc/self/fd/0")}))
"""


@pytest.fixture
def probe(open_path: Path) -> offspring.Program:
    path = open_path / "probe.py"
    path.write_text(PROBE)
    path.chmod(0o644)
    return offspring.Program(sys.executable, str(path))


def _run(probe: offspring.Program, identity: privileges.Identity | None) -> tuple[dict[str, object], process.Exit]:
    read, write = os.pipe()
    flags = offspring.STANDARD_LIBRARY_ONLY
    child = offspring.start(offspring.Launch("probe", {}, "/", 0o077, os.environ, identity, write, flags, program=probe))
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    select.select([child.pidfd], [], [], 30)
    ended = process.reap(child.pid)
    assert ended is not None
    child.close()
    return (json.loads(text) if ended.status == 0 else {"text": text}), ended


def test_a_child_is_clean(probe: offspring.Program) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        seen, _ = _run(probe, None)
    finally:
        signal.signal(signal.SIGHUP, ignored)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert seen["sid"] == seen["pid"]
    assert int(str(seen["SigBlk"]), 16) == 0
    assert not int(str(seen["SigIgn"]), 16) & (1 << (signal.SIGHUP - 1))
    assert (seen["umask"], seen["cwd"], seen["null"]) == (0o077, "/", "/dev/null")
    argv = seen["argv"]
    assert isinstance(argv, list)
    assert seen["fds"] == sorted([0, 1, 2, int(argv[2]), int(argv[4])])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to drop")
def test_a_child_of_root_has_nothing_of_root(probe: offspring.Program) -> None:
    seen, _ = _run(probe, privileges.look_up("nobody"))
    nobody = str(privileges.look_up("nobody").uid)
    assert set(seen["Uid"]) == {nobody}  # type: ignore[call-overload]
    assert "0" not in [*seen["Gid"], *seen["Groups"]]  # type: ignore[misc]
    assert (seen["NoNewPrivs"], int(str(seen["CapBnd"]), 16)) == ("1", 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to drop")
def test_a_child_that_cannot_drop_runs_nothing(probe: offspring.Program, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = privileges.look_up("nobody")
    monkeypatch.setattr(privileges.os, "setgroups", lambda _groups: None)
    seen, ended = _run(probe, privileges.Identity("nobody", identity.uid, identity.gid, (12345,), "/"))
    assert ended.status == 70
    assert "privileges were not dropped" in str(seen["text"])
