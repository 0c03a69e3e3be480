"""Deliveries in, in batches; settlements out."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from aio_pika.abc import AbstractChannel
from aiormq.abc import AbstractChannel as UnderlayChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import AMQPError

from lane.connection import LINK_ERRORS, Link
from lane.port import Delivery, Properties, QueueSpec, Settlement

log = logging.getLogger("lane")

RECONSUME_DELAY_S = 0.5


class Inbox:
    """Consumes queues and yields what they deliver, as one list of all that has come since the last one.

    Args:
        url, name, heartbeat_s: see `lane.connection.Link`.
        queues: what to consume; each is declared first unless `declare` is False.
        prefetch: how many unsettled deliveries the broker may leave with us, for each queue.
        headers: the names of the headers to look for in every message.
        no_ack: the broker forgets a message when it has sent it; nothing is to be settled.

    Use it as `async with inbox: async for batch in inbox: ...`. Iteration ends after `stop()`.
    """

    def __init__(
        self,
        url: str,
        queues: Sequence[QueueSpec],
        *,
        name: str,
        prefetch: int,
        heartbeat_s: int = 10,
        headers: Iterable[bytes] = (),
        no_ack: bool = False,
        declare: bool = True,
    ) -> None:
        self._queues = queues
        self._prefetch = prefetch
        self._headers = [(name.decode("ascii"), name) for name in headers]
        self._no_ack = no_ack
        self._declare = declare
        self._link = Link(
            url, name=name, heartbeat_s=heartbeat_s, confirms=False, setup=self._set_up, lost=self._forget
        )
        self._channel: UnderlayChannel | None = None
        self._consumer_tags: list[str] = []
        self._arrived: list[Delivery] = []
        self._wake = asyncio.Event()
        self._stopping = False
        self._unsettled = 0

    def __repr__(self) -> str:
        return f"<Inbox {self._link!r} arrived={len(self._arrived)} unsettled={self._unsettled}>"

    @property
    def is_consuming(self) -> bool:
        """True while every queue has a consumer."""
        return self._link.is_up and not self._stopping

    @property
    def unsettled(self) -> int:
        """Deliveries of this epoch that are not settled yet."""
        return self._unsettled

    async def consuming(self) -> None:
        """Wait until every queue has a consumer."""
        await self._link.up()

    @property
    def last_error(self) -> str | None:
        """Why the last attempt to connect failed, in one line; None once it has worked."""
        return self._link.last_error

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._wake.set()
        await self._link.__aexit__(kind, error, trace)

    async def __aiter__(self) -> AsyncIterator[list[Delivery]]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._arrived:
                batch, self._arrived = self._arrived, []
                yield batch
            if self._stopping and not self._arrived:
                return

    async def stop(self) -> None:
        """Consume no more. What has arrived and was not yielded goes back to its queue; iteration ends."""
        self._stopping = True
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(*LINK_ERRORS):
                for consumer_tag in self._consumer_tags:
                    await channel.basic_cancel(consumer_tag, timeout=2.0)
        unread, self._arrived = self._arrived, []
        self.settle(unread, Settlement.REQUEUE)
        self._wake.set()

    def settle(self, deliveries: Iterable[Delivery], settlement: Settlement) -> None:
        """Tell the broker what became of deliveries. Those of an ended epoch are forgotten: it has them back."""
        if self._no_ack:
            return
        for delivery in deliveries:
            if delivery.epoch == self._link.epoch and self._channel is not None:
                self._unsettled -= 1
                self._writes.put_nowait((delivery.tag, settlement))

    async def settled(self) -> None:
        """Wait until every settlement so far is written."""
        if self._channel is not None:
            await self._writes.join()

    def _forget(self) -> None:
        self._channel = None
        self._consumer_tags = []
        self._arrived = []
        self._unsettled = 0
        self._writer.cancel()

    async def _set_up(self, channel: AbstractChannel) -> None:
        if self._declare:
            for queue in self._queues:
                await _declare(channel, queue)
        under = await channel.get_underlay_channel()
        await under.basic_qos(prefetch_count=self._prefetch)
        under.on_consumer_cancel_callbacks.add(lambda frame: self._link.restart(f"consumer cancelled: {frame}"))
        self._writes: asyncio.Queue[tuple[int, Settlement]] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write(under, self._writes), name="inbox writer")
        self._channel = under
        for queue in self._queues:
            if queue.consume:
                await self._consume(under, queue.name, self._link.epoch)

    async def _consume(self, channel: UnderlayChannel, queue: str, epoch: int) -> None:
        async def on_delivery(message: DeliveredMessage) -> None:
            if epoch != self._link.epoch:
                return
            self._unsettled += not self._no_ack
            self._arrived.append(self._delivery(queue, message, epoch))
            self._wake.set()

        ok = await channel.basic_consume(queue, on_delivery, no_ack=self._no_ack)
        self._consumer_tags.append(str(ok.consumer_tag))

    def _delivery(self, queue: str, message: DeliveredMessage, epoch: int) -> Delivery:
        given = message.header.properties
        headers = given.headers or {}
        return Delivery(
            queue=queue,
            body=message.body,
            properties=Properties(
                content_type=_bytes(given.content_type),
                content_encoding=_bytes(given.content_encoding),
                correlation_id=_bytes(given.correlation_id),
                message_id=_bytes(given.message_id),
                reply_to=_bytes(given.reply_to),
                expiration=_bytes(given.expiration),
                type=_bytes(given.message_type),
                user_id=_bytes(given.user_id),
                headers={key: _bytes(headers[name]) for name, key in self._headers if name in headers},
            ),
            redelivered=bool(message.redelivered),
            tag=message.delivery_tag or 0,
            epoch=epoch,
        )

    async def _write(self, channel: UnderlayChannel, writes: "asyncio.Queue[tuple[int, Settlement]]") -> None:
        while True:
            tag, settlement = await writes.get()
            with contextlib.suppress(AMQPError):
                match settlement:
                    case Settlement.ACK:
                        await channel.basic_ack(tag, wait=False)
                    case Settlement.REQUEUE:
                        await channel.basic_nack(tag, requeue=True, wait=False)
                    case Settlement.DEAD_LETTER:
                        await channel.basic_reject(tag, requeue=False, wait=False)
            writes.task_done()


def _bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else None


async def _declare(channel: AbstractChannel, queue: QueueSpec) -> None:
    under = await channel.get_underlay_channel()
    await under.queue_declare(
        queue.name, durable=queue.durable, exclusive=queue.exclusive, arguments=dict(queue.arguments)
    )
    if queue.binding is not None:
        await under.exchange_declare(queue.binding.exchange, exchange_type="direct", durable=True)
        await under.queue_bind(queue.name, queue.binding.exchange, queue.binding.routing_key)
