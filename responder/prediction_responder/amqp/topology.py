"""The queues and exchanges of the wire contract."""

from collections.abc import Sequence

from amqp_lane import Binding, ExchangeSpec, QueueSpec

DELIVERY_LIMIT = 50  # each drain and each lost connection adds a delivery to every prefetched request
DEAD_LETTERS_KEPT = 100_000
LOOKED_AT = 1_000_000
DEAD_LETTERS_KEPT_MS = 7 * 86_400_000


def request_queue(namespace: str, model: str) -> str:
    """The request queue of a model."""
    return f"{namespace}predictions.{model}"


def dead_letter_queue(namespace: str) -> str:
    """The queue of requests that could not be answered."""
    return f"{namespace}predictions.dead"


def exchanges(namespace: str, reply_exchange: str) -> list[ExchangeSpec]:
    """The exchange of requests, and that of replies unless it is the default exchange.

    The exchange of replies is a topic exchange: only there can the broker limit each user to its own routing keys.
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
        kept["x-delivery-limit"] = LOOKED_AT  # the default of RabbitMQ 4, 20, drops letters that `redrive` reads
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
