"""The scenarios by name: one module each, with SUMMARY, EVERY (seconds), `disturb(stage)`, and TOML, MORE, GUARDED where needed."""

from types import ModuleType

from chaos.scenarios import kill_supervisor, kill_workers

SCENARIOS: dict[str, ModuleType] = {"kill-workers": kill_workers, "kill-supervisor": kill_supervisor}
