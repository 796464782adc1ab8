"""The address changes by reload; clients follow when it has been told, and ask again for what was under way."""

from chaos.stage import Stage
from holdfast.testing.daemon import free_port

SUMMARY = "another bind address every 3 s"
EVERY = 3.0
TOML = "probation = '0s'\n[jobs.Add]\nprocesses = 2\n"


def disturb(stage: Stage) -> None:
    """One port after the other."""
    version = 1
    while stage.next():
        version += 1
        stage.port = free_port()
        stage.write(version)
        stage.reload(version)
        stage.crowd.move(f"tcp://127.0.0.1:{stage.port}")
