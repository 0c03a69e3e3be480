"""The queues and exchanges of a deployment, declared by somebody who may, for responders that may not."""

from lane import Inbox
from responder.reaching import reached
from responder.settings import Settings
from responder.topology import exchanges, topology


async def declared(settings: Settings, models: list[str]) -> list[str]:
    """Declare what responders for these models need, as they would themselves; what it is, one line each.

    Raises:
        NotReached: there is no broker, or it does not let us, or something of that name is declared otherwise.
    """
    feeding = exchanges(settings.namespace, settings.reply_exchange)
    queues = topology(
        settings.namespace, models, queue_type=settings.queue_type, max_length=settings.max_queue_length, consume=False
    )
    async with Inbox(
        settings.amqp_url.get_secret_value(), queues, name="declare", prefetch=1, exchanges=feeding
    ) as inbox:
        await reached([inbox])
    return [f"exchange {one.name} ({one.type})" for one in feeding] + [
        f"queue {one.name} ({one.arguments['x-queue-type']})"
        + (f", bound to {one.binding.exchange} with {one.binding.routing_key}" if one.binding else "")
        for one in queues
    ]
