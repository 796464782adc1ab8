"""Who says what: class attributes, holdfast.toml, environment and flags, each value with its place, the later layer winning."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdfast.model import tomlfile
from holdfast.model.inputs import Inputs
from holdfast.model.options import DAEMON_OPTIONS, JOB_OPTIONS
from holdfast.model.problems import Problems
from holdfast.model.spec import Declaration
from holdfast.model.values import Written, suggestion

PREFIX = "HOLDFAST_"
JOBS_PREFIX = "HOLDFAST_JOBS_"
#: Variables that are ours and not options.
RESERVED = frozenset({"HOLDFAST_DAEMON", "HOLDFAST_FAULT", "HOLDFAST_WORKER"})
#: Options of [daemon] that have a flag of their own.
OWN_FLAGS = {"name": "--name", "run_dir": "--run-dir", "state_dir": "--state-dir", "user": "--user", "log": "--log"}
_TABLES = ("daemon", "jobs", "programs")


@dataclass(frozen=True, slots=True)
class File:
    """holdfast.toml: its tables, and on which lines they stand."""

    name: str = "holdfast.toml"
    tables: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def origin(self, *path: str) -> str:
        """ "holdfast.toml:12"."""
        line = tomlfile.line_of(self.lines, path)
        return f"{self.name}:{line}" if line else self.name

    def table(self, *path: str) -> Mapping[str, Any]:
        """The table at a path; empty where there is none, or something else."""
        found: Any = self.tables
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}


def parse_toml(inputs: Inputs) -> File:
    """Parse the text of holdfast.toml. ConfigurationError with file, line and column when it is not TOML."""
    if inputs.toml_text is None:
        return File(inputs.toml_name)
    tables = tomlfile.parse(inputs.toml_text, inputs.toml_name)
    return File(inputs.toml_name, tables, tomlfile.lines(inputs.toml_text))


def check_tables(file: File, problems: Problems) -> None:
    """Every top level name is a table that we know."""
    for name, value in file.tables.items():
        if name not in _TABLES:
            near = suggestion(name, DAEMON_OPTIONS) if name in DAEMON_OPTIONS else suggestion(name, _TABLES)
            remedy = f"write it under [daemon]; {near}" if name in DAEMON_OPTIONS else near
            problems.add(f"unknown {'table' if isinstance(value, dict) else 'key'} '{name}'", where=file.origin(name), remedy=remedy)
        elif not isinstance(value, dict):
            problems.add(f"'{name}' is not a table", where=file.origin(name), remedy=f"write [{name}] on a line of its own")


def place(written: Written, section: str, key: str) -> str:
    """Where a message says that a value stands."""
    if written.origin.startswith(PREFIX) or written.origin in OWN_FLAGS.values():
        return written.origin
    name = key if section == "daemon" else f"{section}.{key}"
    return f"{written.origin} {name}" if written.origin == "--set" else f"{written.origin}, {section}.{key}"


def daemon_layers(inputs: Inputs, file: File, problems: Problems) -> dict[str, Written]:
    """What is said about [daemon], option by option; unknown names are problems."""
    found: dict[str, Written] = {}
    for key, value in file.table("daemon").items():
        origin = file.origin("daemon", key)
        if key in DAEMON_OPTIONS:
            found[key] = Written(value, origin)
        elif key in JOB_OPTIONS:
            problems.add(f"'{key}' is an option of a job", where=origin, remedy=f"write it under [jobs.NAME], or as {key} = … in the class")
        else:
            problems.add(f"unknown key '{key}' in [daemon]", where=origin, remedy=suggestion(key, DAEMON_OPTIONS))
    _daemon_environment(inputs.environ, found, problems)
    _daemon_flags(inputs.flags, found, problems)
    return found


def _daemon_environment(environ: Mapping[str, str], found: dict[str, Written], problems: Problems) -> None:
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or name.startswith(JOBS_PREFIX) or name in RESERVED:
            continue
        key = name.removeprefix(PREFIX).lower()
        if key in DAEMON_OPTIONS and name == name.upper():
            found[key] = Written(value, name)
        else:
            known = [PREFIX + option.upper() for option in DAEMON_OPTIONS]
            problems.add(
                f"unknown variable {name}", where="environment", remedy=suggestion(name, known, f"A job's are {JOBS_PREFIX}JOB_OPTION")
            )


def _daemon_flags(flags: Mapping[str, str], found: dict[str, Written], problems: Problems) -> None:
    for name, value in flags.items():
        key = name.removeprefix("daemon.")
        if key in DAEMON_OPTIONS:
            found[key] = Written(value, OWN_FLAGS.get(key, "--set"))
        elif not key.startswith("jobs."):
            problems.add(f"unknown option '{name}'", where="--set", remedy=suggestion(key, DAEMON_OPTIONS, "A job's are jobs.JOB.OPTION"))


@dataclass(frozen=True, slots=True)
class JobTable:
    """A job that is to run: its name, its class, its [jobs.NAME] table."""

    name: str
    cls: str
    table: Mapping[str, Any]
    where: str


def job_tables(file: File, default_jobs: Iterable[str], problems: Problems) -> list[JobTable]:
    """The jobs that run: those with a [jobs.NAME] table, or by default all."""
    tables = file.table("jobs")
    if not tables:
        return [JobTable(name, name, {}, "") for name in default_jobs]
    found = []
    for name, table in tables.items():
        where = file.origin("jobs", name)
        if not isinstance(table, dict):
            problems.add(
                f"'{name}' is not a table", where=where, remedy=f"write [jobs.{name}] on a line of its own, or jobs.NAME.{name} = …"
            )
        elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", name):
            problems.add(f"'{name}' is not a job's name", where=where, remedy="use letters, digits, _ and -")
        elif not isinstance(table.get("class", name), str):
            problems.add("class is not text in quotes", where=file.origin("jobs", name, "class"), remedy='write class = "Fee"')
        else:
            found.append(JobTable(name, table.get("class", name), table, where))
    return found


def job_layers(file: File, job: JobTable, declaration: Declaration, problems: Problems) -> dict[str, Written]:
    """What is said about one job, option by option. Unknown names in the table are problems; those of environment and flags: `spread`."""
    line = f":{declaration.line}" if declaration.line else ""
    origin = f"class {posixpath.basename(declaration.file) or declaration.cls}{line}"
    found = {key: Written(value, origin) for key, value in declaration.options.items() if value is not None}
    for key, value in job.table.items():
        if key in JOB_OPTIONS:
            found[key] = Written(value, file.origin("jobs", job.name, key))
        elif key != "class":
            problems.add(
                f"unknown key '{key}' in [jobs.{job.name}]",
                where=file.origin("jobs", job.name, key),
                remedy="write it under [daemon]" if key in DAEMON_OPTIONS else suggestion(key, JOB_OPTIONS),
            )
    return found


def spread(inputs: Inputs, names: Sequence[str], problems: Problems) -> dict[str, dict[str, Written]]:
    """What environment and flags say about jobs: job -> option -> value. What names no job or no option is a problem."""
    found: dict[str, dict[str, Written]] = {name: {} for name in names}
    for name, value in sorted(inputs.environ.items()):
        if name.startswith(JOBS_PREFIX):
            meant = [(job, option) for job in names for option in JOB_OPTIONS if variable(job, option) == name.upper()]
            for job, option in meant:
                found[job][option] = Written(value, name)
            if not meant:
                problems.add(f"unknown variable {name}", where="environment", remedy=_near_variable(name, names))
    for name, value in inputs.flags.items():
        if name.startswith("jobs."):
            job, _, option = name.removeprefix("jobs.").rpartition(".")
            if job not in found:
                problems.add(f"there is no job '{job}'", where=f"--set {name}", remedy=suggestion(job, names))
            elif option not in JOB_OPTIONS:
                problems.add(f"unknown option '{option}'", where=f"--set {name}", remedy=suggestion(option, JOB_OPTIONS))
            else:
                found[job][option] = Written(value, "--set")
    return found


def variable(job: str, option: str) -> str:
    """The environment's name of a job's option."""
    return f"{JOBS_PREFIX}{re.sub('[^A-Za-z0-9]', '_', job).upper()}_{option.upper()}"


def _near_variable(name: str, names: Sequence[str]) -> str:
    for job in names:
        prefix = variable(job, "")
        if name.upper().startswith(prefix):
            return suggestion(name, [prefix + option.upper() for option in JOB_OPTIONS])
    return f"the jobs are {', '.join(names)}" if names else "there is no job"
