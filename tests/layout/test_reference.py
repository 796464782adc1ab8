"""The reference is made from the table that the parser uses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from holdfast.model.options import DAEMON_OPTIONS, JOB_OPTIONS

ROOT = Path(__file__).parents[2]


def test_the_reference_is_up_to_date() -> None:
    assert subprocess.run([sys.executable, str(ROOT / "scripts" / "reference"), "--check"], check=False).returncode == 0, (
        "run scripts/reference"
    )


def test_the_reference_has_every_key() -> None:
    page = (ROOT / "docs" / "reference" / "configuration.md").read_text()
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == [*DAEMON_OPTIONS, *JOB_OPTIONS]
