"""What `process.py` is given behind the kind. argparse would be half a megabyte in each process, for one to four numbers."""

from __future__ import annotations

from collections.abc import Sequence


def flags(arguments: Sequence[str]) -> dict[str, str]:
    """`--name value` any number of times, as name: value."""
    return {name.removeprefix("--"): value for name, value in zip(arguments[::2], arguments[1::2], strict=True)}
