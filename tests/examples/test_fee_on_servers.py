"""The fee example as it is shipped, on each database by configuration alone; and what `check` says before."""

import json
from pathlib import Path
from typing import Any

import pytest
import zmq

from holdfast.testing import DaemonProcess, free_port
from holdfast.testing.databases import Databases, query

FEE = Path(__file__).parents[2] / "examples" / "fee" / "fee.py"


@pytest.mark.parametrize("kind", ["sqlite", "mariadb", "postgresql"])
def test_the_example_runs_by_configuration_alone(kind: str, tmp_path: Path, databases: Databases) -> None:
    url, port = databases.make(kind), free_port()
    toml = f'[jobs.Fee]\nsource = "zmq+rep://127.0.0.1:{port}"\nstore = "{url}"\n'
    with DaemonProcess(tmp_path, FEE.read_text(), toml=toml) as daemon:
        checked = daemon.run("check", "--json")
        assert checked.returncode == 0, checked.stderr
        assert json.loads(checked.stdout)["warnings"] == []
        daemon.start()
        with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
            sock.linger = 0
            sock.connect(f"tcp://127.0.0.1:{port}")
            for ticket in range(100):
                sock.send_multipart([b"", b"%d,10001,1.50" % ticket])
            answers = []
            while len(answers) < 100 and sock.poll(60_000):
                answers.append(sock.recv_multipart()[-1])
        assert answers == [b"TRUE"] * 100
        (job,) = daemon.status()["jobs"]
        assert (job["guarantee"], job["workers"][0]["threads"]) == ("exactly-once", 1 if kind == "sqlite" else 8)
        if kind != "sqlite":
            assert url.partition("://")[2].partition("@")[0].partition(":")[2] not in json.dumps(job)
    assert [tuple(map(int, row)) for row in query(url, "SELECT count(*), count(DISTINCT ticket) FROM fee WHERE status = 'Y'")] == [
        (100, 100)
    ]


def test_tables_may_take_as_long_as_a_start(tmp_path: Path, databases: Databases) -> None:
    """An index on many rows takes longer than any message may."""
    toml = f'[jobs.Fee]\nsource = "zmq+rep://127.0.0.1:{free_port()}"\nstore = "{databases.make("mariadb")}"\ntimeout = "6s"\n'
    slow = FEE.read_text().replace("CREATE INDEX", "DO SLEEP(8); CREATE INDEX")
    with DaemonProcess(tmp_path, slow, toml=toml) as daemon:
        daemon.start()


def check_of(tmp_path: Path, toml: str) -> Any:
    daemon = DaemonProcess(tmp_path, FEE.read_text(), toml=f'[jobs.Fee]\nsource = "zmq+rep://127.0.0.1:{free_port()}"\n{toml}')
    return daemon.run("check")


def test_check_counts_connections_with_the_heirs(tmp_path: Path, databases: Databases) -> None:
    told = check_of(tmp_path, f'store = "{databases.make("postgresql")}"\nprocesses = 40\n')
    assert told.returncode == 0
    assert "Fee: store: the daemon can open 720 connections (a rollout's heirs included)" in told.stdout


def test_check_says_when_the_server_is_not_there(tmp_path: Path) -> None:
    told = check_of(tmp_path, 'store = "mysql://u:geheim@127.0.0.1:1/db"\n')
    assert told.returncode == 2
    assert "the store cannot be looked at" in told.stderr
    assert "geheim" not in told.stderr + told.stdout
