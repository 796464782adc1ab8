"""Good and broken changes of every kind in a shuffled order, workers killed in between. The seed is the same each time."""

import random

from chaos.stage import Stage
from holdfast.testing.daemon import free_port

SUMMARY = "code, settings, address and framework change, for good and broken, and workers are killed: shuffled, one a second"
EVERY = 1.0
TOML = "probation = '0s'\nsettings = 'test.ini'\n[jobs.Add]\nprocesses = 2\ncrash_limit = 1000000\n"
FILES = {"test.ini": "[app]\nnumber = 1\n"}
BUILDS = ("1.0.1", "1.0.2")
BROKEN = {
    "a syntax error": "\ndef broken(:\n",
    "a failing import": "\nimport no_such_module\n",
    "a failing setup": "\nAdd.setup = lambda self: 1 / 0\n",
    "an exit at import": "\nimport os\nos._exit(3)\n",
}


def disturb(stage: Stage) -> None:
    """Whatever comes next."""
    dice, version, toml = random.Random(7), 1, stage.daemon.toml.read_text()
    upgrades = 0
    while stage.next():
        what = dice.choice(["code", "code", "kill", "settings", "address", "upgrade", "broken toml", *BROKEN])
        if what in ("code", "address", "upgrade"):
            version += 1
            stage.port = free_port() if what == "address" else stage.port
            stage.write(version)
            if what == "upgrade":
                upgrades += 1
                stage.upgrade(version, BUILDS[upgrades % 2])
            else:
                stage.reload(version)
            if what == "address":
                stage.crowd.move(f"tcp://127.0.0.1:{stage.port}")
        elif what == "settings":
            (stage.daemon.folder / "test.ini").write_text(f"[app]\nnumber = {stage.done}\n")
            stage.reload(version, settings=True)
        elif what == "kill":
            victim = dice.choice(stage.daemon.workers())["pid"]
            stage.kill(victim)
            stage.until(lambda victim=victim: _two_without(stage, victim), "two are at work again")
        elif what == "broken toml":
            stage.daemon.toml.write_text(toml + "no_such_key = 1\n")
            stage.refused(what)
            stage.daemon.toml.write_text(toml)
        else:
            stage.write(version + 1, broken=BROKEN[what])
            stage.refused(what)
            stage.write(version)


def _two_without(stage: Stage, victim: int) -> bool:
    """Whether the victim's death is known, too: until then it is still one of them."""
    pids = [worker["pid"] for worker in stage.daemon.workers()]
    return len(pids) == 2 and victim not in pids
