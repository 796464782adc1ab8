"""The scenarios by name: one module each, with SUMMARY, EVERY (seconds), `disturb(stage)`, and where needed TOML, MORE, FILES, GUARDED
and BUILDS (versions of Holdfast to be installed side by side, the first of which is started)."""

from types import ModuleType

from chaos.scenarios import addresses, kill_supervisor, kill_workers, mixed, reload, settings, upgrade

SCENARIOS: dict[str, ModuleType] = {
    "kill-workers": kill_workers,
    "kill-supervisor": kill_supervisor,
    "reload": reload,
    "settings": settings,
    "upgrade": upgrade,
    "addresses": addresses,
    "mixed": mixed,
}
