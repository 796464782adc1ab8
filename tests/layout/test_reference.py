"""Reference and man page are made from the tables that the parsers use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli.command import parser_of
from holdfast.cli.commands import all_commands
from holdfast.model.layers import JOBS_PREFIX, PREFIX, variable
from holdfast.model.options import DAEMON_OPTIONS, JOB_OPTIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", ["reference", "manual"])
def test_what_is_made_is_up_to_date(script: str) -> None:
    assert subprocess.run([sys.executable, str(ROOT / "scripts" / script), "--check"], check=False).returncode == 0, f"run scripts/{script}"


def test_the_man_page_has_every_command_and_option() -> None:
    page = (ROOT / "docs" / "man" / "holdfast.1").read_text()
    for command in all_commands():
        section = page.partition(f'\n.SS "{command.name}')[2].partition("\n.S")[0]
        assert section
        told = set(re.findall(r"--[a-z-]+", (section + page.partition("OPTIONS OF EVERY COMMAND")[2]).replace(r"\-", "-")))
        assert set(re.findall(r"^  (?:-h, )?(--[a-z-]+)", parser_of(command).format_help(), re.MULTILINE)) <= told


def test_the_reference_has_every_key() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == [*DAEMON_OPTIONS, *JOB_OPTIONS]


def test_every_test_that_a_guarantee_names_is_there() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text()
    for entry in re.findall(r"^- `(tests/\S+\.py)`: (.*(?:\n  .*)*)", text, re.MULTILINE):
        code = (ROOT / entry[0]).read_text()
        for name in re.findall(r"`(test_\w+)`", entry[1]):
            assert f"def {name}(" in code, f"{entry[0]} has no {name}"


def test_every_test_that_shows_a_behaviour_is_there() -> None:
    shown = re.findall(r"`(tests/\S+\.py)::(test_\w+)`", (ROOT / "docs" / "behaviours.md").read_text())
    assert len(shown) > 50
    assert [f"{file}::{name}" for file, name in shown if f"def {name}(" not in (ROOT / file).read_text()] == []


def test_the_variables_of_the_reference_are_those_that_are_read() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    rows = [line.split("`") for line in page.splitlines() if line.startswith("| `")]
    told = {(row[-2].startswith(JOBS_PREFIX), row[1]): row[-2] for row in rows}
    assert told == {(False, option): PREFIX + option.upper() for option in DAEMON_OPTIONS} | {
        (True, option): variable("name", option) for option in JOB_OPTIONS
    }
