"""The queues and exchanges of the wire contract."""

from collections.abc import Sequence

from amqp_lane import Binding, ExchangeSpec, QueueSpec

DELIVERY_LIMIT = 50  # prefetched innocents gain a delivery at every drain and lost connection
DEAD_LETTERS_KEPT = 100_000
LOOKED_AT = 1_000_000
DEAD_LETTERS_KEPT_MS = 7 * 86_400_000


def request_queue(namespace: str, model: str) -> str:
    """The queue that requests for a model wait in."""
    return f"{namespace}predictions.{model}"


def dead_letter_queue(namespace: str) -> str:
    """The queue of requests that could not be answered at all."""
    return f"{namespace}predictions.dead"


def exchanges(namespace: str, reply_exchange: str) -> list[ExchangeSpec]:
    """Where requests are published, and replies unless that is the default exchange.

    The one for replies is a topic exchange: only there the broker can hold each user to routing keys of its own.
    """
    return [
        ExchangeSpec(f"{namespace}predictions"),
        *([ExchangeSpec(reply_exchange, "topic")] if reply_exchange else []),
    ]


def topology(
    namespace: str, models: Sequence[str], *, queue_type: str, max_length: int | None, consume: bool = True
) -> list[QueueSpec]:
    """What a responder declares: a request queue for each model, bound to the exchange, and the dead-letter queue.

    Everything is durable; RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.
    """
    exchange = f"{namespace}predictions"
    kept: dict[str, str | int] = {
        "x-queue-type": queue_type,
        "x-max-length": DEAD_LETTERS_KEPT,
        "x-message-ttl": DEAD_LETTERS_KEPT_MS,
    }
    if queue_type == "quorum":
        kept["x-delivery-limit"] = LOOKED_AT  # RabbitMQ 4 drops what was delivered twenty times; `redrive` only looks
    dead = QueueSpec(dead_letter_queue(namespace), arguments=kept, consume=False)
    arguments: dict[str, str | int] = {
        "x-queue-type": queue_type,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead.name,
        "x-overflow": "reject-publish",
    }
    if queue_type == "quorum":
        arguments |= {"x-delivery-limit": DELIVERY_LIMIT, "x-dead-letter-strategy": "at-least-once"}
    if max_length is not None:
        arguments["x-max-length"] = max_length
    return [
        dead,
        *(
            QueueSpec(
                request_queue(namespace, model), arguments=arguments, binding=Binding(exchange, model), consume=consume
            )
            for model in models
        ),
    ]
