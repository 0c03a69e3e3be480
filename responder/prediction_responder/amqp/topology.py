"""The queues and exchanges of the wire contract."""

from collections.abc import Sequence

from amqp_lane import Binding, ExchangeSpec, QueueSpec
from prediction_schemas.wire import Addresses

DELIVERY_LIMIT = 50  # each drain and each lost connection adds a delivery to every prefetched request
DEAD_LETTERS_KEPT = 100_000
LOOKED_AT = 1_000_000
DEAD_LETTERS_KEPT_MS = 7 * 86_400_000


def exchanges(addresses: Addresses, reply_exchange: str) -> list[ExchangeSpec]:
    """The exchange of requests, and that of replies unless it is the default exchange.

    The exchange of replies is a topic exchange: only there can the broker limit each user to its own routing keys.
    """
    return [
        ExchangeSpec(addresses.exchange),
        *([ExchangeSpec(reply_exchange, "topic")] if reply_exchange else []),
    ]


def topology(
    addresses: Addresses, models: Sequence[str], *, queue_type: str, max_length: int | None, consume: bool = True
) -> list[QueueSpec]:
    """What a responder declares: a request queue for each model, bound to the exchange, and the dead-letter queue.

    Everything is durable; RabbitMQ 4.3 refuses queues that are neither durable nor exclusive.
    """
    kept: dict[str, str | int] = {
        "x-queue-type": queue_type,
        "x-max-length": DEAD_LETTERS_KEPT,
        "x-message-ttl": DEAD_LETTERS_KEPT_MS,
    }
    if queue_type == "quorum":
        kept["x-delivery-limit"] = LOOKED_AT  # the default of RabbitMQ 4, 20, drops letters that `redrive` reads
    dead = QueueSpec(addresses.dead_letters, arguments=kept, consume=False)
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
                addresses.requests(model),
                arguments=arguments,
                binding=Binding(addresses.exchange, model),
                consume=consume,
            )
            for model in models
        ),
    ]
