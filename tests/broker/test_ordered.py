"""`ordered = true`: one key's messages in order, whatever fails; a key that fails blocks only itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from broker_kit import APP, Stage

from holdfast.testing import eventually

Make = Callable[..., Stage]

KEYED = APP.replace("    schema =", "    def key(self, message):\n        return message.text.split()[-1]\n\n    schema =")
TOML = '[jobs.Add]\nordered = true\nbackoff = "100ms..1s"\nretries = 1000\n'


def test_a_failing_key_keeps_its_order_and_blocks_only_itself(make: Make) -> None:
    stage = make(app=KEYED, toml=TOML, query="&single_active_consumer=true")
    stage.daemon.start()
    bodies = [b"fails 3 a", b"fails 99999 c", b"work c", *[b"work a", b"work b"] * 20]
    ids = stage.broker.publish(stage.queue, bodies)
    stage.done([ids[0], *ids[3:]])  # all but those of c
    connection = sqlite3.connect(stage.database)
    order = [name for (name,) in connection.execute("SELECT name FROM account ORDER BY rowid")]
    connection.close()
    of_a, of_b = [ids[0], *ids[3::2]], ids[4::2]
    assert [name for name in order if name in of_a] == of_a
    assert [name for name in order if name in of_b] == of_b
    assert stage.daemon.run("stop").returncode == 0
    eventually(lambda: stage.broker.depth(stage.queue) == 2, "those of c are back in the queue")


def test_a_key_goes_on_behind_a_dead_letter(make: Make) -> None:
    stage = make(app=KEYED, toml=TOML.replace("1000", "1"), query="&single_active_consumer=true")
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [b"fails 9 a", b"work a", b"reject a", b"work a"])
    stage.done([ids[1], ids[3]])
    eventually(lambda: stage.job["dead"] == 2, "two are dead letters")
    stage.empty()


def test_a_cut_connection_blocks_no_key(make: Make) -> None:
    stage = make(app=KEYED, toml=TOML, query="&single_active_consumer=true")
    stage.daemon.start()
    ids = stage.broker.publish(stage.queue, [b"fails 4 a", b"work a", b"work b"])
    eventually(lambda: stage.job["retried"] >= 1, "the first one waits")
    stage.proxy.cut()
    stage.done(ids)
    stage.empty()


def test_a_key_that_forks_does_the_work_once(make: Make) -> None:
    """The child that comes out of key() ends there, instead of being a second worker."""
    app = KEYED.replace("        return message.text", "        os.fork()\n        return message.text")
    app = app.replace("        db.execute(", '        open("pids", "a").write("%d " % os.getpid())\n        db.execute(', 1)
    stage = make(app=app, toml=f"{TOML}inbox = false\n", query="&single_active_consumer=true")
    stage.daemon.start()
    (worker,) = eventually(stage.daemon.workers, "a worker")
    stage.done(stage.broker.publish(stage.queue, [b"work a", b"work b", b"work a"]))
    stage.empty()
    assert (stage.daemon.folder / "pids").read_text().split() == 3 * [str(worker["pid"])]
