"""The lock file names the public index only, and pip's list of versions says what it says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_both_lists_hold_the_same_versions() -> None:
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    listed = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert sorted(
        (package["name"], package["version"]) for package in locked if package["name"] not in {"holdfast", "mysqlclient"}
    ) == sorted(listed)


def test_the_lock_names_no_other_host() -> None:
    hosts = set(re.findall(r"[a-z+]+://([^/\"\s]+)", (ROOT / "uv.lock").read_text() + (ROOT / "requirements-dev.txt").read_text()))
    assert hosts == {"files.pythonhosted.org", "pypi.org"}


def test_the_lock_knows_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    wanted += [entry for extra in project["project"]["optional-dependencies"].values() for entry in extra]
    names = {re.split(r"[^\w-]", entry)[0].lower() for entry in wanted}
    assert names <= {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
