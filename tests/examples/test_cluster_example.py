"""The cluster of examples/cluster, small: a node dies, a supervisor dies, a host freezes, and every message has one effect."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servers_kit import Services

EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster" / "cluster.py"


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_doubled_when_nodes_and_daemons_die(services: Services) -> None:
    words = [sys.executable, str(EXAMPLE), "--messages", "400", "--seconds", "6", "--frozen", "5", "--services", str(services.directory)]
    services.url("mariadb")  # which others want, too
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    told = subprocess.run(words, capture_output=True, text=True, check=False, timeout=540, env=environ)
    assert told.returncode == 0, told.stdout + told.stderr
    facts = dict(line.strip().rsplit("  ", 1) for line in told.stdout.splitlines() if line.startswith("  ") and "  " in line.strip())
    found = {name.strip(): value.strip() for name, value in facts.items()}
    assert {name: found[name] for name in ("published (confirmed)", "effects", "lost", "doubled", "left in queues")} == {
        "published (confirmed)": "400",
        "effects": "400",
        "lost": "0",
        "doubled": "0",
        "left in queues": "0",
    }
    assert "SIGKILL to rabbitmq" in told.stdout
