"""The whole configuration, from inputs and declarations: defaults < class attributes < holdfast.toml < environment < flags.

Pure: what has to be read is in `Inputs`, and secrets come through the `read_secret` that the caller gives.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from holdfast.errors import ConfigurationError
from holdfast.model import values
from holdfast.model.inputs import Inputs
from holdfast.model.job_options import JobBeingMade, JobConfig, make_job, shown
from holdfast.model.layers import File, JobTable, check_tables, daemon_layers, job_layers, job_tables, parse_toml, place, spread
from holdfast.model.options import DaemonOptions
from holdfast.model.problems import Problems
from holdfast.model.references import ReadSecret
from holdfast.model.spec import Declaration
from holdfast.model.values import Written

__all__ = ["Configuration", "Inputs", "JobConfig", "ProgramConfig", "daemon_options", "parse_toml", "require_runnable", "resolve"]

Origins = dict[tuple[str, str], str]

_PROGRAM_KEYS = ("command",)


@dataclass(frozen=True, slots=True)
class ProgramConfig:
    """A command to be supervised like a worker."""

    name: str
    command: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything resolved. `origins` and `shown` are by ("daemon", "user") or ("jobs.Fee", "store")."""

    daemon: DaemonOptions
    jobs: Mapping[str, JobConfig]
    programs: Mapping[str, ProgramConfig]
    origins: Mapping[tuple[str, str], str]
    shown: Mapping[tuple[str, str], str]  # as it would be written in TOML, secrets masked


def daemon_options(inputs: Inputs, read_secret: ReadSecret | None = None) -> tuple[DaemonOptions, Origins]:
    """`[daemon]`, which needs no declarations. ConfigurationError lists everything that is wrong with it."""
    problems = Problems()
    options, written = _daemon(inputs, parse_toml(inputs), read_secret or _no_files, problems)
    problems.settle()
    return options, _origins("daemon", options, written)


def resolve(inputs: Inputs, declarations: Sequence[Declaration], default_jobs: Sequence[str], read_secret: ReadSecret) -> Configuration:
    """The configuration of an application that declares these jobs. ConfigurationError lists everything that is wrong."""
    problems = Problems()
    file = parse_toml(inputs)
    check_tables(file, problems)
    options, written = _daemon(inputs, file, read_secret, problems)
    jobs, said = _jobs(inputs, file, {one.cls: one for one in declarations}, default_jobs, read_secret, problems)
    programs = _programs(file, problems)
    problems.settle()
    origins = _origins("daemon", options, written)
    views = {("daemon", one.name): shown(one, getattr(options, one.name), written.get(one.name)) for one in fields(DaemonOptions)}
    for name, job in jobs.items():
        origins |= _origins(f"jobs.{name}", job.options, said[name])
        views |= {(f"jobs.{name}", key): view for key, view in job.shown.items()}
    return Configuration(options, jobs, programs, origins, views)


def require_runnable(configuration: Configuration) -> None:
    """ConfigurationError when something is configured that this version does not run."""
    for program in configuration.programs.values():
        raise ConfigurationError(
            "[programs] are not run in this version", where=program.where, remedy=f"leave out [programs.{program.name}] until they are"
        )


def _no_files(path: str, origin: str) -> str:
    raise ConfigurationError(f"file:{path} cannot be read here", where=origin)


def _origins(section: str, options: DaemonOptions | Any, written: Mapping[str, Written]) -> Origins:
    return {(section, one.name): written[one.name].origin if one.name in written else "default" for one in fields(options)}


def _daemon(inputs: Inputs, file: File, read_secret: ReadSecret, problems: Problems) -> tuple[DaemonOptions, dict[str, Written]]:
    written = daemon_layers(inputs, file, problems)
    if inputs.app:
        written.setdefault("app", Written(inputs.app, "target"))
    if inputs.declared_name:
        written.setdefault("name", Written(inputs.declared_name, "Daemon(name=…)"))
    found: dict[str, Any] = {}
    for option in fields(DaemonOptions):
        found[option.name] = option.default
        if option.name in written:
            with problems.caught(place(written[option.name], "daemon", option.name)):
                found[option.name] = values.resolve(option, written[option.name], inputs.environ, read_secret)

    def where(key: str) -> str:
        return place(written[key], "daemon", key) if key in written else inputs.toml_name

    with problems.caught(where("app")):
        found["app"] = _app(inputs, found["app"])
    with problems.caught(where("umask")):
        _check_umask(found["umask"])
    with problems.caught(where("name")):
        found["name"] = found["name"] or _stem(found["app"])
        _check_name(found["name"])
    _derive_paths(inputs, found)
    return DaemonOptions(**found), written


def _app(inputs: Inputs, configured: str) -> str:
    """The app: the target itself, or what [daemon] names. A file as an absolute path, a module as it is."""
    named = values.absolute(inputs.directory, configured) if configured.endswith(".py") else configured
    if not inputs.app:
        if not named:
            raise ConfigurationError("no app is named", remedy='write app = "fee.py" under [daemon]')
        if not named.endswith(".py") and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", named):
            raise ConfigurationError(f"'{configured}' is neither a .py file nor a dotted module", remedy='write app = "fee.py"')
        return named
    same = named if named.endswith(".py") else posixpath.join(inputs.directory, *named.split(".")) + ".py"
    if named and posixpath.normpath(same) != inputs.app:
        raise ConfigurationError(
            f"{inputs.toml_name} is the configuration of {configured}, not of {posixpath.basename(inputs.app)}",
            remedy="give the command that file, or another configuration with --config",
        )
    return inputs.app


def _stem(app: str) -> str:
    return posixpath.splitext(posixpath.basename(app))[0] if app.endswith(".py") else app.rpartition(".")[2]


def _check_name(name: str) -> None:
    if name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", name):
        raise ConfigurationError(
            f"{values.show_raw(name)} cannot name a daemon", remedy='write name = "fee" under [daemon]: letters, digits, _, - and dots'
        )


def _check_umask(text: str) -> None:
    if not re.fullmatch(r"0?[0-7]{1,3}", text):
        raise ConfigurationError(f"{values.show_raw(text)} is not an octal mask", remedy='write umask = "077"')


def _derive_paths(inputs: Inputs, found: dict[str, Any]) -> None:
    own = posixpath.join(inputs.home, ".local/state/holdfast", found["name"])
    root = inputs.euid == 0
    found["run_dir"] = values.absolute(inputs.directory, found["run_dir"]) or (f"/run/{found['name']}" if root else own)
    found["state_dir"] = values.absolute(inputs.directory, found["state_dir"]) or (f"/var/lib/{found['name']}" if root else own)
    found["settings"] = values.absolute(inputs.directory, found["settings"])
    default_log = "-" if inputs.foreground else posixpath.join(found["state_dir"], f"{found['name']}.log")
    log = found["log"]
    found["log"] = log if log == "-" else values.absolute(inputs.directory, log) or default_log


def _jobs(
    inputs: Inputs,
    file: File,
    declared: Mapping[str, Declaration],
    default_jobs: Sequence[str],
    read_secret: ReadSecret,
    problems: Problems,
) -> tuple[dict[str, JobConfig], dict[str, dict[str, Written]]]:
    tables = [table for table in job_tables(file, default_jobs, problems) if _known(table, declared, problems)]
    outer = spread(inputs, [table.name for table in tables], problems)
    jobs: dict[str, JobConfig] = {}
    said: dict[str, dict[str, Written]] = {}
    for table in tables:
        declaration = declared[table.cls]
        said[table.name] = job_layers(file, table, declaration, problems) | outer[table.name]
        job = make_job(JobBeingMade(inputs, table, declaration, said[table.name], problems), read_secret)
        if job is not None:
            _check_alone(job, jobs, place(said[table.name]["source"], f"jobs.{job.name}", "source") if job.source else "", problems)
            jobs[table.name] = job
    return jobs, said


def _known(table: JobTable, declared: Mapping[str, Declaration], problems: Problems) -> bool:
    if table.cls in declared:
        return True
    remedy = values.suggestion(table.cls, declared, 'A table of another name needs class = "…"')
    problems.add(f"there is no Job class '{table.cls}' in the app", where=table.where, remedy=remedy)
    return False


def _check_alone(job: JobConfig, others: Mapping[str, JobConfig], where: str, problems: Problems) -> None:
    """Two jobs cannot listen at one place."""
    for other in others.values():
        if (
            job.source
            and other.source
            and not job.source.connect
            and not other.source.connect
            and job.source.endpoint == other.source.endpoint
        ):
            problems.add(
                f"{job.name} and {other.name} would both listen on {job.source.endpoint}", where=where, remedy="give each its own source"
            )


def _programs(file: File, problems: Problems) -> dict[str, ProgramConfig]:
    found: dict[str, ProgramConfig] = {}
    for name, table in file.table("programs").items():
        where = file.origin("programs", name)
        if not isinstance(table, dict):
            problems.add(f"'{name}' is not a table", where=where, remedy=f"write [programs.{name}] on a line of its own")
            continue
        for key in table:
            if key not in _PROGRAM_KEYS:
                remedy = values.suggestion(key, _PROGRAM_KEYS)
                problems.add(f"unknown key '{key}' in [programs.{name}]", where=file.origin("programs", name, key), remedy=remedy)
        try:
            found[name] = ProgramConfig(name, values.command(table.get("command")), where)
        except ValueError as error:
            problems.add(f"command is not {error}", where=file.origin("programs", name, "command"), remedy="write it as a list of words")
    return found
