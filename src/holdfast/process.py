"""The one entry of every process that the supervisor (or the command line, for the supervisor itself) executes.

    python [-I -S] …/holdfast/process.py KIND --channel FD --boot FD [--tally FD]

It runs as a file, not with -m, so that `-I -S` works: no site, no .pth files, no environment decides what is imported.
"""

from __future__ import annotations

import contextlib
import os
import sys

_KINDS = {
    "supervisor": "holdfast.supervisor.main",
    "guard": "holdfast.supervisor.guard",
    "check": "holdfast.supervisor.check",
    "logger": "holdfast.telemetry.logger",
    "ingress": "holdfast.ingress.main",
    "zygote": "holdfast.worker.zygote",
    "worker": "holdfast.worker.executed",
    "clerk": "holdfast.cli.clerk",
}
_LONG_LIVED = ("supervisor", "guard", "logger", "ingress")  # without what the user's code may want: that is in zygotes and workers


def main() -> None:
    """Put the package, and not its inside, on the path; hand over to the kind's own `main(arguments)`."""
    import importlib
    import importlib.util

    home = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != home]
    if importlib.util.find_spec("holdfast") is None:
        sys.path.append(os.path.dirname(home))
    kind, *arguments = sys.argv[1:]
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(f"hf:{kind}")  # for ps and top
    if kind in _LONG_LIVED:
        importlib.import_module("holdfast.postponed").postpone()
    if kind == "ingress":
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # msgspec takes it where it is; typing does
    sys.exit(importlib.import_module(_KINDS[kind]).main(arguments))


if __name__ == "__main__":
    main()
