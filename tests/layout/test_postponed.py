"""Modules that are imported and hardly ever used are loaded when something is taken from them, and our processes take nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_layout import PACKAGE

PROGRAM = """
import importlib, sys
sys.path.append(sys.argv[1])
from holdfast.postponed import postpone
postpone()
"""


def told(program: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-I", "-S", "-c", PROGRAM + program, str(PACKAGE.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_a_postponed_module_is_loaded_when_something_is_taken_from_it() -> None:
    program = "import inspect\nprint('ast' in sys.modules)\nfrom inspect import signature\n"
    assert told(program + "print('ast' in sys.modules, signature is inspect.signature)") == ["False", "True", "True"]


def test_what_is_loaded_stays_as_it_is() -> None:
    assert told("import copy\npostpone(['copy', 'no_such_module'])\nprint(sys.modules['copy'] is copy, '__getattr__' in vars(copy))") == [
        "True",
        "False",
    ]


@pytest.mark.parametrize("module", ["holdfast.supervisor.main", "holdfast.supervisor.guard", "holdfast.telemetry.logger"])
def test_a_process_that_lives_long_loads_none_of_them(module: str) -> None:
    """A dataclass without a docstring would, for one."""
    assert (
        told(
            "importlib.import_module(sys.argv[2])\nprint(*sorted({'ast', 'argparse', '_hashlib', 'linecache'} & sys.modules.keys()))",
            module,
        )
        == []
    )
