"""The new program, looked at before an upgrade: `process.py check --channel FD --boot FD --state FD`.

It reads a copy of the state as it would after the exec, and loads or at least compiles all that it is made of. It touches nothing.
Exit status 0, after `{"say": "fit", "version"}`, means: it can take over.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import holdfast
from holdfast.linux.channel import Channel, from_memfd
from holdfast.supervisor import main as program
from holdfast.supervisor.state import Envelope


def main(arguments: Sequence[str]) -> int:
    """Every failure ends it, with the traceback on standard error."""
    parser = argparse.ArgumentParser(prog="check")
    for name in ("--channel", "--boot", "--state"):
        parser.add_argument(name, type=int, required=True)
    flags = parser.parse_args(arguments)
    state = Envelope.from_bytes(from_memfd(flags.state)).opened()
    state.fleet.fleet(lambda: 1.0)
    assert callable(program.main)
    _compile(os.path.dirname(os.path.abspath(holdfast.__file__)))
    Channel.from_fd(flags.channel).send({"say": "fit", "version": holdfast.__version__})
    return 0


def _compile(package: str) -> None:
    """What other processes are made of needs libraries that are not for us; that it is Python at all can be seen here."""
    for folder, _folders, files in os.walk(package):
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    compile(file.read(), path, "exec", dont_inherit=True)
