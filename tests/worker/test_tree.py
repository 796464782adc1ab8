"""Importing from memory what the disk held once; each program runs in an interpreter of its own."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import holdfast.process
from holdfast.worker import tree as trees
from holdfast.worker.tree import read_tree

AWAY = "\nimport shutil\nshutil.rmtree(root)\n"


def run(root: Path, program: str, **environment: str) -> str:
    """What it prints; `root` is in it, and everything below is imported from memory."""
    head = f"""
    import os, sys
    root = {str(root)!r}
    from holdfast.worker.tree import read_tree
    from holdfast.worker.tree_imports import install
    sys.path.insert(0, root)
    tree = read_tree(root)
    install(tree)
    """
    home = str(Path(holdfast.process.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", dedent(head) + dedent(program)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": home, **environment},
        cwd=root.parent,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "app"
    shop = root / "shop"
    (shop / "sql").mkdir(parents=True)
    (root / "parts" / "inner").mkdir(parents=True)
    (shop / "__init__.py").write_text("from . import prices\n")
    (shop / "prices.py").write_text("def price():\n    return 1\n")
    (shop / "late.py").write_text("from .prices import price\nfrom parts.inner.deep import where\n")
    (shop / "sql" / "fee.sql").write_text("SELECT 'ä'")
    (root / "parts" / "inner" / "deep.py").write_text("where = __file__\n")
    (root / "plain.py").write_text("version = 1\n\ndef fail():\n    raise ValueError('here')  # the line\n")
    return root


def test_modules_packages_and_namespace_packages_after_the_files_have_gone(root: Path) -> None:
    program = f"""{AWAY}
    import plain, shop.late, parts
    print(plain.version, shop.late.price(), shop.late.where, shop.__path__, plain.__file__, shop.__package__, parts.__file__)"""
    shop, deep, plain = root / "shop", root / "parts" / "inner" / "deep.py", root / "plain.py"
    assert run(root, program.replace("\n    ", "\n")) == f"1 1 {deep} {[str(shop)]} {plain} shop None"


def test_reloading_runs_what_was_loaded_and_bytecode_is_not_asked(root: Path) -> None:
    py_compile.compile(str(root / "plain.py"))
    times = os.stat(root / "plain.py")
    (root / "plain.py").write_text((root / "plain.py").read_text().replace("version = 1", "version = 6"))
    os.utime(root / "plain.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    program = """
    import importlib, plain
    print(plain.version)
    plain.version = 2
    with open(plain.__file__, "w") as file: file.write("version = 3")
    importlib.invalidate_caches()
    print(importlib.reload(plain).version)"""
    assert run(root, program) == "6\n6"


def test_a_file_that_came_later_is_not_there(root: Path) -> None:
    program = """
    import importlib.util
    for name in ("new.py", "shop/new.py"):
        open(os.path.join(root, name), "w").close()
    print(importlib.util.find_spec("new"), importlib.util.find_spec("shop.new"), importlib.util.find_spec("nothing"))"""
    assert run(root, program) == "None None None"


@pytest.mark.parametrize("change", [AWAY, "\nopen(os.path.join(root, 'plain.py'), 'w').write('\\n\\n\\n# another line\\n')\n"])
def test_tracebacks_show_the_lines_that_ran(root: Path, change: str) -> None:
    program = f"import traceback, plain, inspect{change}try:\n    plain.fail()\nexcept ValueError:\n    print(traceback.format_exc())\n"
    told = run(root, program + "print(inspect.getsource(plain.fail))")
    assert told.count("raise ValueError('here')  # the line") == 2


def test_data_of_packages_and_finding_of_modules(root: Path) -> None:
    program = f"""{AWAY}
import importlib.resources, pkgutil, shop
files = importlib.resources.files("shop")
found = files / "sql" / "fee.sql"
print(found.read_text(encoding="utf-8"), (files / "sql").is_dir(), sorted(f.name for f in files.iterdir()), (files / "none").is_file())
with importlib.resources.as_file(found) as path: print(path.read_text(encoding="utf-8"))
with found.open("r", encoding="utf-8") as file: print(file.read())
print(pkgutil.get_data("shop", "sql/fee.sql").decode())
print([(m.name, m.ispkg) for m in pkgutil.iter_modules([root])], [m.name for m in pkgutil.iter_modules(shop.__path__, "shop.")])
try: (files / "none").read_bytes()
except FileNotFoundError: print("not there")
"""
    assert run(root, program, PYTHONIOENCODING="utf-8").splitlines() == [
        "SELECT 'ä' True ['__init__.py', 'late.py', 'prices.py', 'sql'] False",
        *["SELECT 'ä'"] * 3,
        "[('plain', False), ('shop', True)] ['shop.late', 'shop.prices']",
        "not there",
    ]


def test_folders_that_the_application_adds_to_the_path(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    (root / "lib-2").mkdir()
    (root / "lib-2" / "extra.py").write_text("here = __file__")
    program = """
    sys.path[:0] = [os.path.join(os.path.realpath(root), "lib-2")]
    import shutil
    shutil.rmtree(os.path.realpath(root))
    import extra
    print(extra.here)"""
    assert run(tmp_path / "link", program) == str(root / "lib-2" / "extra.py")


def test_an_application_without_its_sources(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", str(root)], check=True)
    for file in root.rglob("*.py"):
        file.unlink()
    assert run(root, f"{AWAY}import plain, shop.late\nprint(plain.version, shop.late.price())") == "1 1"


def test_what_is_not_the_application_is_left_out(root: Path) -> None:
    for folder in (".git", "venv", "node_modules", "__pycache__", "lib/site-packages"):
        (root / folder).mkdir(parents=True)
        (root / folder / "other.py").touch()
    (root / "venv" / "pyvenv.cfg").touch()
    (root / "up").symlink_to(root)
    os.mkfifo(root / "shop" / "pipe.py")
    (root / "fee.db").write_bytes(b"rows")
    (root / "shop" / "large.bin").write_bytes(bytes(trees.LARGEST_DATA + 1))
    (root / "shop" / "quick.so").touch()
    tree = read_tree(str(root))
    assert sorted(os.path.relpath(path, root) for path in tree.files) == [
        "parts/inner/deep.py", "plain.py", "shop/__init__.py", "shop/late.py", "shop/prices.py", "shop/sql/fee.sql",
    ]  # fmt: skip
    assert tree.outside == {str(root / "shop" / "large.bin"), str(root / "shop" / "quick.so")}
    assert tree.limit == ""


@pytest.mark.parametrize(
    ("name", "most", "told"),
    [
        ("MOST_FILES", 2, "more than 2 files"),
        ("MOST_BYTES", 130, "more than 0 MiB"),
        ("MOST_ENTRIES", 4, "more than 4 files and folders"),
    ],
)
def test_beyond_its_limits_the_disk_is_asked(root: Path, name: str, most: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, name, most)
    tree = read_tree(str(root))
    assert (tree.limit, str(root / "plain.py") in tree.files) == (told, True)
    assert str(root / "shop" / "late.py") not in tree.files
    program = f"""
    import holdfast.worker.tree as trees
    trees.{name} = {most}
    install(read_tree(root))
    sys.path_importer_cache.clear()
    import plain, shop.late, parts.inner.deep
    print(plain.version, shop.late.price(), type(shop.late.__loader__).__name__)"""
    assert run(root, program) == "1 1 SourceLoader"


def test_each_file_is_read_once(root: Path) -> None:
    tree = read_tree(str(root))
    (root / "plain.py").write_text("version = 2")
    assert tree.read(str(root / "plain.py")).startswith(b"version = 1")
    with pytest.raises(FileNotFoundError, match="no such file when the application was loaded"):
        tree.read(str(root / "new.py"))
