"""The scenarios by name: one module each, with SUMMARY, EVERY (seconds), `disturb(stage)`, and TOML, MORE, FILES, GUARDED where needed."""

from types import ModuleType

from chaos.scenarios import addresses, kill_supervisor, kill_workers, mixed, reload, settings

SCENARIOS: dict[str, ModuleType] = {
    "kill-workers": kill_workers,
    "kill-supervisor": kill_supervisor,
    "reload": reload,
    "settings": settings,
    "addresses": addresses,
    "mixed": mixed,
}
