"""The relay: what is refused holds up nobody else; another process takes over from one that is killed, or stands still."""

from __future__ import annotations

from collections.abc import Callable

from outbox_kit import Stage

from holdfast.testing import eventually

Make = Callable[..., Stage]


def test_a_target_that_refuses_holds_up_no_other(teller: Make) -> None:
    """Hundreds without a key, to a queue that is not there; and a broker that was away."""
    stage = teller()
    queue, other = stage.queue(), stage.queue()
    stage.proxy.cut(refuse=True)
    stage.daemon.start()
    with stage.broker.channel() as channel:
        channel.queue_delete(queue)
        stage.tell([f"queue={queue} - a{number}" for number in range(700)] + [f"queue={other} - b{number}" for number in range(300)])
        stage.proxy.heal()
        stage.wait(other, 300)
        eventually(lambda: stage.outbox["messages"] == 700 and "NO_ROUTE" in stage.outbox["trouble"], "the others wait, and it is told why")
        channel.queue_declare(queue, durable=True)
        stage.wait(queue, 700)
    assert {body for _id, body in stage.taken(other)} == {f"b{number}" for number in range(300)}
    eventually(lambda: stage.outbox["messages"] == 0, "nothing waits any more")
