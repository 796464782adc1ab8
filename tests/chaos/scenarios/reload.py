"""New code again and again; the answers carry its version."""

from chaos.stage import Stage

SUMMARY = "a reload with different code every 2 s"
EVERY = 2.0
TOML = "probation = '0s'\n[jobs.Add]\nprocesses = 2\n"


def disturb(stage: Stage) -> None:
    """One version after the other."""
    version = 1
    while stage.next():
        version += 1
        stage.write(version)
        stage.reload(version)
