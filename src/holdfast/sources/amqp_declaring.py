"""What a source asks of the broker before its first message: its queues, its exchange, the binding; and what a refusal means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from holdfast.errors import AppError
from holdfast.model.broker import QueueAddress
from holdfast.sources.amqp_link import told

_PRECONDITION_FAILED, _NOT_FOUND = 406, 404


def queue_arguments(address: QueueAddress) -> dict[str, Any]:
    """With which the queue is declared: what the broker drops by itself is kept in another one (trap 26)."""
    arguments: dict[str, Any] = {"x-queue-type": address.queue_type}
    if address.queue_type == "quorum":
        arguments["x-delivery-limit"] = address.delivery_limit
    arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": address.dropped}
    if address.queue_type == "quorum":
        arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    if address.single_active:
        arguments["x-single-active-consumer"] = True
    return arguments


def declarations(address: QueueAddress) -> list[Callable[[Any, Any], None]]:
    """What is asked of the broker before the first message, in order."""
    queue, exchange = address.queue, address.exchange
    if address.declare == "passive":
        steps: list[Callable[[Any, Any], None]] = [lambda ch, go: ch.queue_declare(queue, passive=True, callback=go)]
        if exchange:
            steps.append(lambda ch, go: ch.exchange_declare(exchange, passive=True, callback=go))
        return steps
    kind: Mapping[str, Any] = {"x-queue-type": address.queue_type}
    steps = [
        lambda ch, go: ch.queue_declare(address.dropped, durable=True, arguments=dict(kind), callback=go),
        lambda ch, go: ch.queue_declare(queue, durable=True, arguments=queue_arguments(address), callback=go),
    ]
    if exchange:
        key = address.routing_key
        steps += [
            lambda ch, go: ch.exchange_declare(exchange, exchange_type=address.exchange_type, durable=True, callback=go),
            lambda ch, go: ch.queue_bind(queue, exchange, routing_key=key, callback=go),
        ]
    return steps


def refusal(error: BaseException) -> AppError | None:
    """What the operator has to know of a declaration that the broker does not take."""
    code = getattr(error, "reply_code", 0)
    if code == _PRECONDITION_FAILED:
        return AppError(
            f"the broker has it otherwise: {told(error)}",
            remedy="write declare=passive to take what is there as it is, write what is there into the URL (queue_type=, delivery_limit=, "
            "exchange_type=), or delete it at the broker",
        )
    if code == _NOT_FOUND:
        return AppError(
            f"the broker does not have it: {told(error)}", remedy="declare it at the broker, or leave out declare=passive so that we do"
        )
    return None
