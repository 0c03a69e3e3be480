"""Declare the queues and exchanges of a deployment, for responders without that permission."""

from prediction_responder.amqp import connect
from prediction_responder.amqp.topology import exchanges, topology
from prediction_responder.settings import Settings
from prediction_schemas.wire import Addresses


async def declare(settings: Settings, models: list[str]) -> list[str]:
    """Declare what responders for these models would declare themselves.

    Returns:
        What was declared, one line each.

    Raises:
        NotReached: no broker, no permission, or a queue or exchange of that name has other arguments.
    """
    addresses = Addresses(settings.namespace)
    exchange_specs = exchanges(addresses, settings.reply_exchange)
    queues = topology(
        addresses, models, queue_type=settings.queue_type, max_length=settings.max_queue_length, consume=False
    )
    await connect.declare(settings.amqp_url.get_secret_value(), queues, exchange_specs)
    return [f"exchange {one.name} ({one.type})" for one in exchange_specs] + [
        f"queue {one.name} ({one.arguments['x-queue-type']})"
        + (f", bound to {one.binding.exchange} with {one.binding.routing_key}" if one.binding else "")
        for one in queues
    ]
