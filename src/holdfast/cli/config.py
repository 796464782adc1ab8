"""`config`: every value, and where it came from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from holdfast.cli import output
from holdfast.cli.children import configured
from holdfast.cli.command import Call, Command
from holdfast.cli.preflight import examine
from holdfast.model.configuration import Configuration, JobConfig
from holdfast.model.options import DaemonOptions, JobOptions
from holdfast.model.references import has_reference
from holdfast.model.units import show_size
from holdfast.model.urls import masked

#: Messages of each connection that the ingress reads ahead of what it counts: see holdfast.ingress.sockets.
_READ_AHEAD = 16


def run(arguments: argparse.Namespace, call: Call) -> int:
    """Print it all; secrets are masked."""
    configuration = configured(examine(call))
    if arguments.json:
        output.say_json(_facts(configuration))
    else:
        for line in _lines(configuration):
            output.say(line)
    return 0


def _lines(configuration: Configuration) -> Iterator[str]:
    yield from _section(configuration, "daemon", [option.name for option in fields(DaemonOptions)])
    for job in configuration.jobs.values():
        yield ""
        yield from _section(configuration, f"jobs.{job.name}", [option.name for option in fields(JobOptions)], job)
        if job.source is not None:
            yield f"# memory of the ingress for this job: at most {_bound(job)}"
    for program in configuration.programs.values():
        yield from ("", f"[programs.{program.name}]", f"command = {list(program.command)}    # {program.where}")


def _section(configuration: Configuration, section: str, keys: list[str], job: JobConfig | None = None) -> Iterator[str]:
    yield f"[{section}]"
    if job is not None:
        yield f'class = "{job.cls}"'
    rows = [[f"{key} = {configuration.shown[section, key]}", f"# {configuration.origins[section, key]}"] for key in keys]
    width = min(60, max(len(row[0]) for row in rows))
    for setting, origin in rows:
        yield f"{setting.ljust(width)}  {output.paint(origin, 'dim', sys.stdout)}"


def _bound(job: JobConfig) -> str:
    """What the clients can make the ingress hold, at the very worst."""
    options = job.options
    ahead = options.max_clients * _READ_AHEAD * options.max_message
    return (
        f"{show_size(options.in_flight_bytes)} held, and {options.max_clients} clients x {_READ_AHEAD} messages x "
        f"{show_size(options.max_message)} read ahead = {(options.in_flight_bytes + ahead) / (1 << 20):.0f} MiB"
    )


def _facts(configuration: Configuration) -> dict[str, Any]:
    """Section -> key -> value, as resolved, and origin. A value that came from a reference is its reference."""
    jobs = {name: _values(configuration, f"jobs.{name}", job.options, JobOptions) for name, job in configuration.jobs.items()}
    programs = {program.name: {"command": list(program.command)} for program in configuration.programs.values()}
    return {"daemon": _values(configuration, "daemon", configuration.daemon, DaemonOptions), "jobs": jobs, "programs": programs}


def _values(configuration: Configuration, section: str, options: Any, kind: Any) -> dict[str, Any]:
    return {
        option.name: {
            "value": _plain(getattr(options, option.name), configuration.shown[section, option.name]),
            "origin": configuration.origins[section, option.name],
        }
        for option in fields(kind)
    }


def _plain(value: Any, view: str) -> Any:
    if has_reference(view.strip('"')):
        return view.strip('"')
    return masked(value) if isinstance(value, str) else value


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: durations in seconds, sizes in bytes")


COMMAND = Command(
    name="config",
    summary="Print every value and where it came from.",
    details="Print the configuration as it would be used, each value with its origin: default, class, holdfast.toml, environment, --set.\n"
    "Secrets are masked.\n\n"
    "exit status: 0, 1 the app cannot be imported, 2 usage or configuration, 4 no rights",
    run=run,
    configure=_configure,
)
