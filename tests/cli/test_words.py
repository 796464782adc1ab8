"""The command line itself: help, versions, unknown words, errors without tracebacks of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_kit import Bench

import holdfast
from holdfast.cli.commands import VERBS, all_commands, command_of
from holdfast.cli.main import main
from holdfast.errors import HoldfastError


def test_every_command_is_found_by_its_name() -> None:
    assert tuple(command.name for command in all_commands()) == VERBS
    assert command_of("main") is None


def test_a_command_to_a_running_daemon_imports_little() -> None:
    look = "import sys; from holdfast.cli.commands import command_of; command_of('reload'); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    dear = {
        "subprocess",
        "sqlalchemy",
        "zmq",
        "msgspec",
        "holdfast.cli.launching",
        "holdfast.cli.children",
        "holdfast.supervisor.offspring",
    }
    assert not dear & set(told.stdout.split())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)
    assert main([]) == 2
    assert "usage: holdfast VERB" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_its_exit_statuses(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", verb]) == 0
    text = capsys.readouterr().out
    assert f"usage: holdfast {verb}" in text
    assert "exit status: 0" in text
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.rstrip() == text.rstrip()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"holdfast {holdfast.__version__}\n"


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["strat", "fee.py"], 2, "unknown command 'strat'; did you mean 'start'?"),
        (["frobnicate"], 2, "unknown command 'frobnicate'; see 'holdfast help'"),
        (["help", "strat"], 2, "unknown command 'strat'; did you mean 'start'?"),
        (["check", "--frob"], 2, "unrecognized arguments: --frob; see 'holdfast check --help'"),
        (["check", "a", "b"], 2, "unrecognized arguments: b"),
        (["check", "--set", "x"], 2, "--set: 'x' sets nothing; write --set jobs.Fee.processes=4"),
        (["stop", "fee.py", "--timeout", "soon"], 2, "--timeout: 'soon' is not a duration"),
        (["status", "--frob"], 4, "unrecognized arguments: --frob"),
        (["check", "nope.py"], 2, "there is no file nope.py"),
        (["start", "nope.py"], 2, "there is no file nope.py"),
        (["status", "nope"], 4, "there is no holdfast.toml|no app is named"),
        (["failed", "fee.py", "lsit"], 2, "unknown action 'lsit'; did you mean 'list'?"),
        (["failed", "fee.py", "show"], 2, "show takes one ID"),
        (["failed", "fee.py", "retry"], 2, "retry takes IDs, or --all"),
        (["failed", "fee.py", "drop", "a", "--all"], 2, "drop takes IDs, or --all"),
        (["failed", "fee.py", "list", "a"], 2, "list takes no IDs"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    words: list[str], status: int, says: str, bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bench.folder)
    assert main(words) == status
    error = capsys.readouterr().err
    assert any(part in error for part in says.split("|")), error
    assert error.startswith("holdfast: ")
    assert len(error.splitlines()) == 1


def test_our_own_bug_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("holdfast.cli.main._run", broken)
    assert main(["start"]) == 70
    assert "ZeroDivisionError: ours" in (error := capsys.readouterr().err)
    assert "bug of holdfast; please report it" in error


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "/run/fee"), 4, "Permission denied: /run/fee"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (HoldfastError("it broke", where="here", remedy="mend it"), 1, "holdfast: here: it broke; mend it"),
    ],
)
def test_each_error_has_its_status(
    error: BaseException, status: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise error

    monkeypatch.setattr("holdfast.cli.main._run", broken)
    assert main(["start"]) == status
    assert says in (told := capsys.readouterr().err)
    assert "Traceback" not in told


def test_a_reader_that_has_enough_is_no_error(bench: Bench) -> None:
    command = [sys.executable, "-m", "holdfast", "help"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(command, env=bench.environment(), stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_app_hands_over_to_the_command(bench: Bench) -> None:
    by_app, by_command = bench.python("fee.py", "status", "--json"), bench.holdfast("status", "fee.py", "--json")
    assert (by_app.returncode, by_app.stdout) == (by_command.returncode, by_command.stdout) == (3, by_command.stdout)
    assert bench.python("fee.py", "frob").returncode == 2
    assert bench.python("fee.py").returncode == 0
    assert bench.python("fee.py", "--help").stdout == bench.holdfast("help").stdout


def test_a_declared_name_is_one_for_both_forms(bench: Bench) -> None:
    app = (bench.folder / "fee.py").read_text()
    (bench.folder / "fee.py").write_text(app.replace("Daemon(Fee)", 'Daemon(Fee, name="feed")'))
    for done in (bench.python("fee.py", "status"), bench.holdfast("status", "fee.py")):
        assert done.stdout == "feed  stopped\n"
    bench.toml('[daemon]\nname = "other"\n')
    for done in (bench.python("fee.py", "status"), bench.holdfast("status", "fee.py")):
        assert done.stdout == "other  stopped\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose")
def test_root_does_not_run_what_others_can_write(bench: Bench) -> None:
    (bench.folder / "fee.py").chmod(0o666)
    done = bench.python("fee.py", "status")
    assert done.returncode == 4
    assert "can be written by others than root" in done.stderr
    assert f"use 'holdfast status {bench.folder}/fee.py'" in done.stderr


def test_the_commands_load_no_driver_and_no_user_code() -> None:
    program = "import sys, holdfast.cli.main; print([m for m in sys.modules if m.split('.')[0] in ('zmq', 'sqlalchemy', 'msgspec')])"
    sources = str(Path(holdfast.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": sources}, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
