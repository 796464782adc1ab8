"""The settings file changes and is handed to the workers that are there: no PID changes at all."""

from chaos.stage import IDENTITY, Stage

SUMMARY = "reload --settings every second"
EVERY = 1.0
TOML = "settings = 'test.ini'\n[jobs.Add]\nprocesses = 2\n"
FILES = {"test.ini": "[app]\nversion = 1\n"}
MORE = (
    IDENTITY
    + """
    def setup(self):
        self.reload(self.settings)

    def reload(self, settings):
        self.loaded = int(settings["app"]["version"])

    def version(self):
        return self.loaded
"""
)


def disturb(stage: Stage) -> None:
    """One setting after the other."""
    version, workers = 1, {worker["pid"] for worker in stage.daemon.workers()}
    while stage.next():
        version += 1
        fresh = stage.daemon.folder / "test.new"
        fresh.write_text(f"[app]\nversion = {version}\n")
        fresh.rename(stage.daemon.folder / "test.ini")
        stage.reload(version, settings=True)
    if workers != {worker["pid"] for worker in stage.daemon.workers()}:
        stage.complain("a worker's PID has changed")
