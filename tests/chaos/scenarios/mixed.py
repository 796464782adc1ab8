"""Good and broken changes in a shuffled order, workers killed in between. The seed is the same each time."""

import random

from chaos.stage import Stage

SUMMARY = "good code, broken code, broken configuration and kills, shuffled, one a second"
EVERY = 1.0
TOML = "probation = '0s'\n[jobs.Add]\nprocesses = 2\ncrash_limit = 1000000\n"
BROKEN = {
    "a syntax error": "\ndef broken(:\n",
    "a failing import": "\nimport no_such_module\n",
    "a failing setup": "\nAdd.setup = lambda self: 1 / 0\n",
    "an exit at import": "\nimport os\nos._exit(3)\n",
}


def disturb(stage: Stage) -> None:
    """Whatever comes next."""
    dice, version, toml = random.Random(7), 1, stage.daemon.toml.read_text()
    while stage.next():
        what = dice.choice(["good", "good", "kill", "broken toml", *BROKEN])
        if what == "good":
            version += 1
            stage.write(version)
            stage.reload(version)
        elif what == "kill":
            stage.kill(dice.choice(stage.daemon.workers())["pid"])
            stage.until(lambda: len(stage.daemon.workers()) == 2, "two are at work again")
        elif what == "broken toml":
            stage.daemon.toml.write_text(toml + "no_such_key = 1\n")
            stage.refused(what)
            stage.daemon.toml.write_text(toml)
        else:
            stage.write(version + 1, broken=BROKEN[what])
            stage.refused(what)
            stage.write(version)
