"""The digest of what the ingress runs: the same from outside, another one whenever its code is another."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.linux import code
from holdfast.model.imports import imported

ROOTS, LIBRARIES = code.INGRESS, code.INGRESS_LIBRARIES


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, with the libraries' records beside it."""
    place = tmp_path / "site"
    shutil.copytree(code.PACKAGE, place / "holdfast", ignore=shutil.ignore_patterns("__pycache__"))
    for library in LIBRARIES:
        info = place / f"{library}-1.0.dist-info"
        info.mkdir()
        (info / "RECORD").write_text("one.py,sha256=1,10\n")
    return place / "holdfast"


def of(package: Path) -> str:
    return code.digest(str(package), ROOTS, LIBRARIES, [str(package.parent)])


def test_the_ingress_loads_no_module_that_does_not_count() -> None:
    program = "import sys, holdfast.process, holdfast.ingress.main; print(*[m for m in sys.modules if m.partition('.')[0] == 'holdfast'])"
    command = [sys.executable, "-c", f"sys_path = {str(Path(code.PACKAGE).parent)!r}; import sys; sys.path.append(sys_path); {program}"]
    loaded = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    counted = code.modules(code.PACKAGE, ROOTS)
    assert loaded <= counted
    assert {"holdfast.ingress.main", "holdfast.model.holding", "holdfast.linux.channel"} <= loaded
    assert not {name for name in counted if name.startswith(("holdfast.worker", "holdfast.supervisor", "holdfast.stores"))}


def test_a_bare_interpreter_finds_the_same() -> None:
    """The supervisor runs with -I -S and knows no site-packages; the libraries are found all the same."""
    program = (
        f"import sys; sys.path.append({str(Path(code.PACKAGE).parent)!r}); from holdfast.linux import code; print(code.ingress_digest())"
    )
    bare = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert bare == code.ingress_digest()
    assert bare != code.digest(code.PACKAGE, ROOTS, LIBRARIES, [])  # so the libraries are in it


@pytest.mark.parametrize("file", ["ingress/loop.py", "ingress/door.py", "model/holding.py", "linux/channel.py", "process.py"])
def test_changed_code_of_the_ingress_is_another_code(package: Path, file: str) -> None:
    before = of(package)
    (package / file).write_text((package / file).read_text() + "# changed\n")
    changed = of(package)
    (package / file).write_text("this is not Python")
    broken = of(package)
    (package / file).unlink()
    assert len({before, changed, broken, of(package)}) == 4


def test_a_library_of_another_version_is_another_code(package: Path) -> None:
    before = of(package)
    record = package.parent / "pyzmq-1.0.dist-info" / "RECORD"
    record.write_text("one.py,sha256=2,10\n")
    rebuilt = of(package)
    record.parent.rename(package.parent / "pyzmq-2.0.dist-info")
    assert len({before, rebuilt, of(package)}) == 3


@pytest.mark.parametrize("file", ["worker/engine.py", "supervisor/daemon.py", "model/fleet.py", "cli/main.py"])
def test_other_code_does_not_count(package: Path, file: str) -> None:
    before = of(package)
    (package / file).write_text("changed = True\n")
    assert of(package) == before


def test_the_place_does_not_count(package: Path, tmp_path: Path) -> None:
    before = of(package)
    shutil.move(package.parent, tmp_path / "elsewhere")
    assert of(tmp_path / "elsewhere" / "holdfast") == before


def test_what_a_text_imports() -> None:
    text = """
import a.b, c as d
from e.f import (g,
                 h as i)
from . import near
if TYPE_CHECKING:
    import never
def later():
    from j import k
"""
    assert imported(text) == {"a", "a.b", "c", "e", "e.f", "e.f.g", "e.f.h", "j", "j.k"}


def test_another_version_number_alone_is_the_same_code(package: Path) -> None:
    before = of(package)
    text = (package / "__init__.py").read_text()
    (package / "__init__.py").write_text(text.replace('__version__ = "', '__version__ = "9.'))
    assert of(package) == before
    (package / "__init__.py").write_text(text + "x = 1\n")
    assert of(package) != before
