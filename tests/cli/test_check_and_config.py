"""`check` and `config` with real children: the app is imported elsewhere, everything wrong is one sentence."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from typing import Any

import pytest
from cli_kit import Bench

from holdfast.cli import clerk
from holdfast.errors import ConfigurationError
from holdfast.testing import free_port


def test_all_is_fine(bench: Bench) -> None:
    done = bench.holdfast("check", "fee.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Fee: exactly-once\nfee: the configuration is fine\n", "")
    assert json.loads(bench.holdfast("check", "fee.py", "--json").stdout) == {"ok": True, "warnings": [], "jobs": {"Fee": "exactly-once"}}


def job(*attributes: str, work: str = "def handle(self, m): ...") -> str:
    lines = [*attributes, *work.split("\n")]
    return "\n".join(["from holdfast import Job", "class Fee(Job):", *(f"    {line}" for line in lines)])


SOURCE = "source = 'zmq+rep://*:{port}'"


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("class X: pass", "fee.py: no Job in this file"),
        (job(SOURCE, work="def handle(self, m): ...\ndef run(self): ..."), "fee.py:2: Fee defines both"),
        ("def (:", "SyntaxError"),
        ("import nothing_of_the_kind", "ModuleNotFoundError: No module named 'nothing_of_the_kind'"),
        ("import os; os._exit(3)", "the import of the app ended the process (exit status 3)"),
        (job("source = 'zmq+rpe://*:1'"), "class fee.py:2, jobs.Fee.source: unknown source scheme"),
        (job("source = 'amqp://h'"), "class fee.py:2, jobs.Fee.source: this source names no queue; write it as amqp://"),
        (job(SOURCE, "store = 'mysql://h'"), "names no host, or no database"),
    ],
)
def test_a_wrong_app_is_told(bench: Bench, app: str, says: str) -> None:
    bench.app(app)
    done = bench.holdfast("check", "fee.py")
    assert done.returncode == 2
    assert says in done.stderr
    assert "holdfast/cli" not in done.stderr


def test_a_syntax_error_comes_with_its_traceback(bench: Bench) -> None:
    bench.app("x = 1\ndef (:\n")
    done = bench.holdfast("check", "fee.py")
    assert 'fee.py", line 2' in done.stderr
    assert "SyntaxError" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("[daemon]\nsettings = 'nope.ini'", "the settings .*nope.ini cannot be read: No such file"),
        ("[daemon]\nsettings = 'fee.py'", "unknown format of settings"),
        ("[programs.x]\ncommand = ['php']", "not run in this version"),
        ("[jobs.Fee]\nstore = 'sqlite:///no/such/folder/fee.db'", "cannot write beside .*no/such/folder/fee.db"),
        ("[daemon]\nname = ", "holdfast.toml:2:8: not TOML"),
        ("[jobs.Other]\n", r"known: Fee\. A table of another name needs class"),
    ],
)
def test_a_wrong_configuration_is_told(bench: Bench, toml: str, says: str) -> None:
    bench.toml(toml)
    done = bench.holdfast("check", "fee.py")
    assert done.returncode == 2
    assert re.search(says, done.stderr), done.stderr


def test_a_port_in_use_is_told_unless_it_is_our_own(bench: Bench) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", bench.port))
        other.listen()
        done = bench.holdfast("check", "fee.py")
        assert done.returncode == 2
        assert f"Fee.source: 127.0.0.1:{bench.port} is in use by another process" in done.stderr
        bench.daemon()
        assert bench.holdfast("check", "fee.py").returncode == 0


@pytest.mark.parametrize(
    ("key", "says"), [("run_dir", "x/run_dir cannot be made"), ("state_dir", "x/state_dir cannot be made"), ("log", "x cannot be written")]
)
def test_a_place_that_cannot_be_written_is_told(bench: Bench, key: str, says: str) -> None:
    """By whoever starts it, or as root by the service user where it is one of his."""
    (bench.folder / "x").write_text("a file, and no folder")
    bench.environ = {f"HOLDFAST_{key.upper()}": str(bench.folder / "x" / key)}
    done = bench.holdfast("check", "fee.py")
    assert (done.returncode, says in done.stderr, "[daemon]" in done.stderr) == (4, True, True), done.stderr
    assert {"run", "state"} & {path.name for path in bench.folder.iterdir()} == set(), "nothing is made"


@pytest.mark.parametrize("what", [{"store": "mysql://h/d"}, {"store": "postgresql://h/d"}, {"store": "", "broker": True}])
def test_a_driver_that_is_missing_is_told_before_the_start(what: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("holdfast.stores.", "pymysql", "psycopg", "pika"))]:
        monkeypatch.delitem(sys.modules, name)
    for driver in ("pika", "pymysql", "psycopg"):
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigurationError, match=r"which is not installed; pip install 'holdfast\[\w+\]'") as found:
        clerk.TASKS["findings"]({"jobs": [{"name": "Fee", "threads": 1, "connections": 1, "broker": False, **what}]})
    assert found.value.__cause__ is None, "one sentence is enough: no traceback comes with it"


def test_what_to_know_before(bench: Bench) -> None:
    bench.toml(f"[jobs.Fee]\nsource = 'zmq+pull://*:{bench.port}'\nstore = 'sqlite://'\nthreads = 2\nprocesses = 2")
    done = bench.holdfast("check", "fee.py")
    assert done.returncode == 0
    for part in ("cannot ask again", "in memory", "processes = 2", "threads = 2", "Fee: at-most-once"):
        assert part in done.stdout


def test_the_connections_of_all_jobs_and_their_heirs_are_counted(bench: Bench, services: Any) -> None:
    """Two jobs on one server: 2 x 99 threads and one each beside them, and 8 threads by default; twice for heirs."""
    url = services.url("mariadb")
    bench.toml(
        f"[jobs.One]\nclass = 'Fee'\nsource = 'zmq+rep://*:{bench.port}'\nstore = '{url}'\nthreads = 99\nprocesses = 2\n"
        f"[jobs.Two]\nclass = 'Fee'\nsource = 'zmq+rep://*:{free_port()}'\nstore = '{url}'\n"
    )
    done = bench.holdfast("check", "fee.py")
    assert done.returncode == 0, done.stderr
    assert f"the daemon can open {2 * (2 * 100 + 9)} connections (a rollout's heirs included)" in done.stdout


def test_every_value_has_its_origin(bench: Bench) -> None:
    bench.toml('[daemon]\nstop_timeout = "5s"\n[jobs.Fee]\nbatch = 7\nstore = "${DB}"\n')
    bench.environ = {"HOLDFAST_JOBS_FEE_RETRIES": "2", "DB": "sqlite:///geheim.db"}
    text = bench.holdfast("config", "fee.py", "--set", "jobs.Fee.processes=3").stdout
    settings = {line.partition("#")[0].strip(): line.partition("#")[2].strip() for line in text.splitlines()}
    assert settings['stop_timeout = "5s"'] == "holdfast.toml:2"
    assert settings["batch = 7"] == "holdfast.toml:4"
    assert settings["retries = 2"] == "HOLDFAST_JOBS_FEE_RETRIES"
    assert settings["processes = 3"] == "--set"
    assert settings['linger = "0s"'] == "default"
    assert settings['store = "${DB}"'] == "holdfast.toml:5"
    assert settings[f'source = "zmq+rep://127.0.0.1:{bench.port}"'] == "class fee.py:4"
    assert "geheim" not in text
    facts = json.loads(bench.holdfast("config", "fee.py", "--json").stdout)
    assert facts["daemon"]["stop_timeout"] == {"value": 5.0, "origin": "holdfast.toml:2"}
    assert facts["jobs"]["Fee"]["store"] == {"value": "${DB}", "origin": "holdfast.toml:5"}
    assert facts["jobs"]["Fee"]["max_message"] == {"value": 1 << 20, "origin": "default"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs as somebody else")
@pytest.mark.usefixtures("open_path")
def test_root_meets_no_user_code(bench: Bench) -> None:
    bench.toml('[daemon]\nuser = "nobody"\n')
    bench.environ = {"HOLDFAST_USER": "nobody"}
    app = (bench.folder / "fee.py").read_text().replace('store = "sqlite:///fee.db"', "pass").replace("message, db", "message")
    (bench.folder / "fee.py").write_text("import os\nassert os.getuid() == os.geteuid() != 0, 'root'\n" + app)
    done = bench.holdfast("check", "fee.py")
    assert (done.returncode, done.stdout) == (0, "Fee: at-least-once\nfee: the configuration is fine\n"), done.stderr
