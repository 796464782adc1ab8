"""Which part loads what: import-linter sees what files say, these see what really happens."""

from __future__ import annotations

import ast
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast.linux.channel import to_memfd

PACKAGE = Path(holdfast.__file__).parent
#: Parts that the supervisor and the logger may load, and so the standard library only.
BARE = ("control", "errors", "linux", "model", "process", "supervisor", "telemetry")
#: The two of the model that speak MessagePack; supervisor and logger do not load them.
NOT_BARE = {"holdfast.model.delivery", "holdfast.model.holding"}
NOT_PURE = {
    "asyncio", "fcntl", "mmap", "multiprocessing", "os", "pathlib", "select", "selectors", "signal", "socket", "subprocess", "tempfile",
    "threading", "time",
}  # fmt: skip
#: Who reads the wall clock, which can be set at any moment: for people and for rows, never to decide when something is due.
READS_THE_WALL_CLOCK = {
    "cli/failed": "when a message died",
    "cli/launching": "the name of today's log",
    "stores/inbox": "inbox_keep",
    "stores/mysql": "inbox_keep, and how far the server's is off",
    "stores/outbox": "status: how old",
    "stores/postgresql": "inbox_keep, and how far the server's is off",
    "supervisor/guard_records": "its lines",
    "supervisor/reload": "status: when the last was",
    "supervisor/view": "status: how old, since when",
    "telemetry/events": "its lines",
    "telemetry/logger": "lines that have no time",
    "worker/burial": "when a message died",
    "worker/item": "when a message came",
    "worker/pausing": "status: since when",
}


def modules(part: str) -> Iterator[str]:
    """Names of all modules of a part."""
    place = PACKAGE / part
    for file in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
        name = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        yield name.removesuffix(".__init__")


def strangers(loaded: set[str]) -> set[str]:
    """Modules that are neither of the standard library nor ours."""
    tops = {name.partition(".")[0] for name in loaded}
    return tops - set(sys.stdlib_module_names) - {"__main__", "holdfast"}


@pytest.mark.parametrize("part", BARE)
def test_a_bare_part_loads_the_standard_library_only(part: str) -> None:
    names = [name for name in modules(part) if name not in NOT_BARE]
    program = "import importlib, json, sys\nsys.path.append(sys.argv[1])\n[importlib.import_module(n) for n in sys.argv[2:]]\n"
    command = [sys.executable, "-I", "-S", "-c", program + "print(json.dumps(sorted(sys.modules)))", str(PACKAGE.parent), *names]
    loaded = set(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert names
    assert set(names) <= loaded
    assert strangers(loaded) == set()


def loads_of(kind: str, flags: list[str], boot: dict[str, object], *more: str, fds: tuple[int, ...] = ()) -> set[str]:
    """Every module that a real process of this kind has loaded by its end; its supervisor is gone from the start."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    document = to_memfd("boot", json.dumps(boot).encode())
    command = [sys.executable, *flags, "-X", "importtime", str(PACKAGE / "process.py"), kind]
    command += ["--channel", str(theirs.fileno()), "--boot", str(document), *more]
    done = subprocess.run(command, pass_fds=(theirs.fileno(), document, *fds), capture_output=True, text=True, timeout=60, check=True)
    theirs.close()
    os.close(document)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return loaded - {"imported package", "org", "org.python", "org.python.core"}  # the heading, and Jython, which pickle looks for


def test_a_real_logger_loads_the_standard_library_only(tmp_path: Path) -> None:
    loaded = loads_of("logger", ["-I", "-S"], {"path": str(tmp_path / "fee.log")})
    assert "holdfast.telemetry.logfiles" in loaded
    assert strangers(loaded) == set()
    assert not {
        name for name in loaded if name.startswith(("holdfast.worker", "holdfast.supervisor", "holdfast.ingress", "holdfast.stores"))
    }


def test_a_real_ingress_loads_no_store_and_no_worker() -> None:
    from holdfast.model import tally

    memory = to_memfd("tally", bytes(tally.SIZE))
    loaded = loads_of("ingress", [], {"epoch": 1, "stop_timeout": 5}, "--tally", str(memory), fds=(memory,))
    os.close(memory)
    assert {"holdfast.ingress.loop", "zmq"} <= loaded
    assert not {name for name in loaded if name.startswith(("holdfast.worker", "holdfast.supervisor", "holdfast.stores", "sqlalchemy"))}


def test_a_real_zygote_loads_no_driver_that_nobody_asked_for(tmp_path: Path) -> None:
    (tmp_path / "fee.py").write_text("from holdfast import Job\n\nclass Fee(Job):\n    def handle(self, message): ...\n")
    loaded = loads_of("zygote", [], {"app": "fee.py", "directory": str(tmp_path), "generation": 1, "settings_path": "fee.ini"})
    assert {"holdfast.worker.engine", "holdfast.stores.letter_files"} <= loaded
    assert not {"sqlalchemy", "zmq", "yaml", "psycopg", "pymysql", "sqlite3"} & loaded


def imports(file: Path) -> Iterator[str]:
    """Top-level names of all modules that a file imports, also inside of functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").partition(".")[0]


def test_the_model_is_pure() -> None:
    guilty = {file.name: bad for file in (PACKAGE / "model").rglob("*.py") if (bad := NOT_PURE & set(imports(file)))}
    assert guilty == {}


def test_only_what_is_shown_or_kept_for_days_depends_on_the_wall_clock() -> None:
    reads = ("time", "time_ns", "clock_gettime", "now", "utcnow", "today", "strftime", "gmtime")
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Attribute(value=ast.Name(id="time" | "datetime" | "date"), attr=attribute) if attribute in reads:
                    found.add(str(file.relative_to(PACKAGE).with_suffix("")))
                case ast.ImportFrom(module="time"):
                    found.add(str(file.relative_to(PACKAGE).with_suffix("")))
    assert found == set(READS_THE_WALL_CLOCK)


def test_importing_the_package_loads_nothing_else_of_it() -> None:
    program = "import sys; sys.path.append(sys.argv[1]); import holdfast; print(*[n for n in sys.modules if n.startswith('holdfast')])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, str(PACKAGE.parent)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["holdfast"]
