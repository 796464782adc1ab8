"""Everything that a configuration is made from, as plain values: what was read before anything was decided."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Inputs:
    """One command's view of the world. Paths are absolute."""

    target: str  # as given; empty for ./holdfast.toml
    directory: str  # of holdfast.toml, else of the app: the working directory of everything
    app: str = ""  # the app file, when the target is one
    toml_path: str | None = None
    toml_text: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)  # "jobs.Fee.processes": "4", "run_dir": "/run/fee"
    declared_name: str = ""  # what the app passes to Daemon(name=…)
    euid: int = 0
    home: str = "/"
    foreground: bool = False

    @property
    def toml_name(self) -> str:
        """How messages name the file."""
        return posixpath.basename(self.toml_path) if self.toml_path else "holdfast.toml"
