"""The framework itself changes again and again, between two builds; each upgrade brings different application code too."""

from chaos.stage import Stage

SUMMARY = "an upgrade every 5 s between two installed builds"
EVERY = 5.0
TOML = "probation = '0s'\n[jobs.Add]\nprocesses = 2\n"
BUILDS = ("1.0.1", "1.0.2")


def disturb(stage: Stage) -> None:
    """One build after the other."""
    version = 1
    while stage.next():
        version += 1
        stage.write(version)
        stage.upgrade(version, BUILDS[(version - 1) % 2])
