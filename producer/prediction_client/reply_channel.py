"""A caller's two connections and its reply queue. The client and the load tool both use this module."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from amqp_lane import Amqp, Binding, Fate, Message, QueueSpec, Transport
from prediction_client.request import RequestWriter
from prediction_schemas.wire import REPLY_HEADERS, REPLY_PREFIX, Addresses

PREFETCH = 1000


@dataclass(frozen=True)
class Broker:
    """The broker, and where requests and replies are sent.

    Args:
        url: the broker's AMQP URL.
        namespace: the responders' RESPONDER_NAMESPACE.
        exchange: where requests are published; empty for the default exchange.
        reply_exchange: the responders' RESPONDER_REPLY_EXCHANGE; empty for the default exchange.
        reply_prefix: the first part of the reply queue's name.
        user_id: the broker's user, sent with each request; None for no user.
    """

    url: str = field(repr=False)
    namespace: str = ""
    exchange: str = ""
    reply_exchange: str = ""
    reply_prefix: str = REPLY_PREFIX
    user_id: str | None = None


class ReplyChannel:
    """A consumer of the reply queue and a publisher of requests.

    Args:
        broker: where to connect, and the names to use there.
        purpose: names the connections, e.g. `prediction client`.
        on_lost: called when the reply queue is gone; replies to earlier requests cannot come.
        on_fate: called with published requests and their fate.
        transport: carries requests and replies instead of RabbitMQ at the broker's URL.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        purpose: str,
        on_lost: Callable[[], None],
        on_fate: Callable[[Sequence[Message], Fate], None],
        transport: Transport | None = None,
    ) -> None:
        self.queue = f"{broker.reply_prefix}{uuid.uuid4().hex}"
        prefix = "" if broker.exchange else Addresses(broker.namespace).queue_prefix
        self.writer = RequestWriter(prefix=prefix, reply_to=self.queue, user_id=broker.user_id)
        binding = Binding(broker.reply_exchange, self.queue) if broker.reply_exchange else None
        carrier = transport or Amqp(broker.url)
        self.inbox = carrier.inbox(
            [QueueSpec(self.queue, durable=False, exclusive=True, binding=binding)],
            name=f"{purpose} replies",
            prefetch=PREFETCH,
            headers=REPLY_HEADERS,
            no_ack=True,
            on_lost=on_lost,
        )
        self.outbox = carrier.outbox(name=f"{purpose} requests", exchange=broker.exchange, on_fate=on_fate)

    @property
    def problem(self) -> str | None:
        """Why a connection is not up, in one line."""
        return self.outbox.last_error or self.inbox.last_error

    async def up(self) -> None:
        """Wait until both are connected."""
        await self.outbox.up()
        await self.inbox.consuming()

    async def __aenter__(self) -> Self:
        await self.inbox.__aenter__()
        await self.outbox.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close both connections, even if this task is cancelled in between."""
        try:
            await self.outbox.__aexit__(kind, error, trace)
        finally:
            await self.inbox.__aexit__(kind, error, trace)
