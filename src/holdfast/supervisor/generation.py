"""A generation: one state of configuration, settings and application code, as it was loaded, and the zygote that has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.errors import ConfigurationError
from holdfast.linux.channel import Packet
from holdfast.model.configuration import Configuration
from holdfast.model.fleet_events import Plan
from holdfast.model.inputs import Inputs
from holdfast.model.job_options import JobConfig
from holdfast.model.options import DaemonOptions

#: What cannot change while the daemon runs: it is what the daemon is found by, and whom it has dropped to.
FIXED = ("name", "run_dir", "state_dir", "user", "group")


@dataclass(slots=True)
class Generation:
    """`settings_text` is what new workers get, whatever has become of the file. `configuration` is there once the app is imported."""

    number: int
    inputs: Inputs
    options: DaemonOptions
    settings_text: str | None
    settings_version: int = 0
    declared: Packet | None = None
    configuration: Configuration | None = None
    unprepared: list[str] = field(default_factory=list)
    lost: bool = False  # zygote and twin are gone, and the files hold something else

    @property
    def jobs(self) -> Mapping[str, JobConfig]:
        """By name; none before the app is imported."""
        return self.configuration.jobs if self.configuration is not None else {}

    @property
    def digest(self) -> str:
        """Of the application's code, as it was loaded."""
        return str((self.declared or {}).get("digest", ""))

    def plans(self) -> dict[str, Plan]:
        """How the fleet is to run its jobs."""
        limits = {"start_limit": self.options.start_timeout, "drain_limit": self.options.stop_timeout}
        return {name: Plan(job.options.processes, bool(job.options.overlap), **limits) for name, job in self.jobs.items()}


def require_same_daemon(old: DaemonOptions, new: DaemonOptions) -> None:
    """ConfigurationError, naming the option, when this is another daemon than the one that runs."""
    for key in FIXED:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            raise ConfigurationError(
                f"{key} cannot change by a reload: it is '{before}' and would be '{after}'", where="[daemon]", remedy="restart for that"
            )
