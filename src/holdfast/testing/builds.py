"""Several installations of Holdfast side by side behind one link, as a deployment would have them: for tests of `upgrade`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import holdfast


class Builds:
    """Copies of the package as it is here, each in an environment of its own. `python` is that of whichever the link names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._link = folder / "current"
        self.python = str(self._link / "bin" / "python")

    def make(self, version: str) -> Path:
        """Another build, which calls itself by this version; the folder of its package."""
        home = self.folder / version
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
        site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
        package = site / "holdfast"
        shutil.copytree(Path(holdfast.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        edit(package / "__init__.py", f'__version__ = "{holdfast.__version__}"', f'__version__ = "{version}"')
        return package

    def use(self, version: str) -> None:
        """Flip the link, at once."""
        fresh = self.folder / "current.new"
        fresh.symlink_to(version)
        os.rename(fresh, self._link)


def edit(file: Path, old: str, new: str) -> None:
    """Change one place of a source file; AssertionError when it is not there."""
    text = file.read_text()
    assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
    file.write_text(text.replace(old, new))
