"""`failed` on real stores and on files: list, show, retry twice, drop."""

from __future__ import annotations

import json

import pytest
from cli_kit import Bench

from holdfast.stores import open_store
from holdfast.stores.base import DeadLetter
from holdfast.stores.letter_files import LetterFiles


def buried(bench: Bench, *bodies: bytes) -> None:
    """Dead letters in the store, as a worker buries them."""
    store = open_store(f"sqlite:///{bench.folder}/fee.db", "Fee")
    store.install("", lambda db: None)
    connection = store.connect()
    transaction = connection.begin()
    for number, body in enumerate(bodies):
        letter = DeadLetter(
            "Fee", body, f"reason {number}", "Traceback\n", b"id", died_at=1e9 + number, id=f"letter{number}", headers={"k": "v"}
        )
        transaction.bury(letter)
    transaction.commit()
    connection.close()
    store.close()


def filed(bench: Bench, *bodies: bytes) -> None:
    """Dead letters in the state directory."""
    bench.toml('[jobs.Fee]\ndead_letter = "state_dir"\n')
    files = LetterFiles(str(bench.folder / "state"))
    for number, body in enumerate(bodies):
        files.bury(
            DeadLetter(
                "Fee", body, f"reason {number}", "Traceback\n", b"id", died_at=1e9 + number, id=f"letter{number}", headers={"k": "v"}
            )
        )


@pytest.mark.parametrize("bury", [buried, filed])
def test_the_life_of_a_letter(bench: Bench, bury) -> None:
    bury(bench, b"7,a,1", b"\xff\x00", b"third")
    letters = json.loads(bench.holdfast("failed", "fee.py", "list", "--json").stdout)
    assert [(letter["id"], letter["job"], letter["state"], letter["size"]) for letter in letters] == [
        ("letter0", "Fee", "dead", 5),
        ("letter1", "Fee", "dead", 2),
        ("letter2", "Fee", "dead", 5),
    ]
    text = bench.holdfast("failed", "fee.py").stdout
    assert [line.split()[0] for line in text.splitlines()] == ["ID", "letter0", "letter1", "letter2"]

    shown = json.loads(bench.holdfast("failed", "show", "fee.py", "letter1", "--json").stdout)
    assert (shown["body"], shown["reason"], shown["headers"]) == ("/wA=", "reason 1", {"k": "v"})
    text = bench.holdfast("failed", "fee.py", "show", "letter1").stdout
    assert "Traceback" in text
    assert "body (2 bytes):\n\\xff" in text

    done = bench.holdfast("failed", "fee.py", "retry", "letter0")
    assert (done.returncode, done.stdout) == (0, "Fee: 1 marked for another try\nfee does not run: they are tried when it starts\n")
    again = bench.holdfast("failed", "fee.py", "retry", "letter0", "nope")
    assert (again.returncode, again.stderr) == (0, "holdfast: 2 of the 2 IDs were not there, or done already\n")
    assert bench.holdfast("failed", "fee.py", "drop", "letter1").stdout == "Fee: 1 dropped\n"
    left = json.loads(bench.holdfast("failed", "fee.py", "list", "--json", "--job", "Fee").stdout)
    assert [(letter["id"], letter["state"]) for letter in left] == [("letter0", "retry"), ("letter2", "dead")]
    assert json.loads(bench.holdfast("failed", "fee.py", "drop", "--all", "--json").stdout) == {"dropped": {"Fee": 2}}
    assert bench.holdfast("failed", "fee.py", "list").stdout == "no dead letters\n"


def test_a_daemon_that_runs_is_told(bench: Bench) -> None:
    buried(bench, b"1")
    bench.daemon({"retry-letters": [{"exit": 0}]})
    assert json.loads(bench.holdfast("failed", "fee.py", "retry", "--all", "--json").stdout) == {"marked": {"Fee": 1}, "told": ["Fee"]}
    assert bench.asked() == [{"verb": "retry-letters", "job": "Fee"}]
    bench.holdfast("failed", "fee.py", "retry", "--all")
    assert len(bench.asked()) == 1


def test_a_daemon_that_never_ran_has_none_and_gets_no_file(bench: Bench) -> None:
    assert bench.holdfast("failed", "fee.py").stdout == "no dead letters\n"
    assert not (bench.folder / "fee.db").exists()
    store = open_store(f"sqlite:///{bench.folder}/fee.db", "Fee")
    store.connect().close()
    store.close()
    (bench.folder / "fee.db").touch()
    assert bench.holdfast("failed", "fee.py").stdout == "no dead letters\n"


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["show", "nope"], 1, "there is no dead letter nope"),
        (["list", "--job", "Fe"], 2, "there is no job 'Fe'; did you mean 'Fee'?"),
    ],
)
def test_what_is_not_there(bench: Bench, words: list[str], status: int, says: str) -> None:
    done = bench.holdfast("failed", "fee.py", *words)
    assert done.returncode == status
    assert says in done.stderr


def test_a_store_that_is_broken_is_told(bench: Bench) -> None:
    (bench.folder / "fee.db").write_text("this is no database at all, and long enough to be looked at")
    done = bench.holdfast("failed", "fee.py")
    assert done.returncode == 5
    assert "not a database" in done.stderr
