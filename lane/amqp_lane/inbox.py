"""Consumes queues: deliveries come in batches, settlements are collected for a few milliseconds and sent together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from amqp_lane import frames
from amqp_lane.connection import LINK_ERRORS, Channel, Link
from amqp_lane.encoding import encode_settlement
from amqp_lane.frames import Event, consumer_and_tag
from amqp_lane.port import Delivery, ExchangeSpec, QueueSpec, Settlement
from amqp_lane.properties import locate
from amqp_lane.window import AckWindow
from amqp_lane.wire import Moderation

_BASIC_REJECT = b"\x00\x3c\x00\x5a"
# Acknowledgements wait up to ACK_DELAY_S, so that one frame covers many: each frame is a write here and, on a quorum
# queue, an entry in the broker's log. They go at once when 1/ACK_SHARE_OF_PREFETCH of the prefetch would wait.
ACK_DELAY_S = 0.005
ACK_SHARE_OF_PREFETCH = 4
MODERATION = Moderation(events_per_ms=12, at_most_ms=2)


class Inbox:
    """Consumes queues and yields lists of deliveries: each list holds all that arrived since the last one.

    Args:
        url, name, heartbeat_s: see `amqp_lane.connection.Link`.
        queues: what to consume; each is declared first unless `declare` is False.
        exchanges: exchanges to declare before the queues that are bound to them. Leave out an exchange that another
            program declares.
        prefetch: how many unsettled deliveries the broker may send, for each queue.
        headers: the names of the headers to look for in every message.
        max_body_bytes: a larger body is skipped as it arrives; its delivery has `body` None.
        on_lost: called when an epoch has ended. Deliveries that were not yielded yet are dropped with it.
        no_ack: the broker forgets a message once it is sent; there is nothing to settle.

    Use it as `async with inbox: async for batch in inbox: ...`. Iteration ends after `stop()`.
    """

    def __init__(
        self,
        url: str,
        queues: Sequence[QueueSpec],
        *,
        name: str,
        prefetch: int,
        exchanges: Sequence[ExchangeSpec] = (),
        heartbeat_s: int = 10,
        headers: Collection[bytes] = (),
        max_body_bytes: int = 16 * 2**20,
        no_ack: bool = False,
        declare: bool = True,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_lost = on_lost
        self._queues = queues
        self._exchanges = exchanges
        self._prefetch = prefetch
        self._headers = frozenset(headers)
        self._no_ack = no_ack
        self._declare = declare
        self._link = Link(
            url,
            self,
            name=name,
            heartbeat_s=heartbeat_s,
            keep=(frames.BASIC_DELIVER,),
            confirms=False,
            moderation=MODERATION,
            max_body_bytes=max_body_bytes,
        )
        self._channel: Channel | None = None
        self._paused: set[str] = set()
        self._changing = asyncio.Lock()
        self._queue_of: dict[bytes, str] = {}
        self._consuming: set[str] = set()
        self._is_set_up = False  # declared, and the prefetch is set: queues may be consumed
        self._arrived: list[Delivery] = []
        self._reader: asyncio.Future[None] | None = None  # the iterator, waiting for the next batch
        self._stopping = False
        self._window = AckWindow()
        self._singles: list[bytes] = []
        self._flush_later: asyncio.Handle | None = None

    def __repr__(self) -> str:
        return f"<Inbox {self._link!r} arrived={len(self._arrived)} unsettled={self.unsettled}>"

    @property
    def is_consuming(self) -> bool:
        """True while every queue that is not paused has a consumer."""
        return self._link.is_up and not self._stopping

    @property
    def unsettled(self) -> int:
        """How many deliveries of this epoch are not settled yet."""
        return self._window.unsettled

    @property
    def last_error(self) -> str | None:
        """Why the last connection failed, in one line; None after a success."""
        return self._link.last_error

    async def consuming(self) -> None:
        """Wait until every queue has a consumer."""
        await self._link.up()

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._wake()
        self._flush()
        await self._link.__aexit__(kind, error, trace)

    async def __aiter__(self) -> AsyncIterator[list[Delivery]]:
        loop = asyncio.get_running_loop()
        while True:
            if not self._arrived and not self._stopping:
                self._reader = loop.create_future()
                await self._reader
            if self._arrived:
                batch, self._arrived = self._arrived, []
                yield batch
            if self._stopping and not self._arrived:
                return

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def restart(self, why: str) -> None:
        """Drop the connection, so that the broker requeues all unsettled deliveries: a last resort after a bug here."""
        self._link.end(ConnectionError(why))

    async def pause(self, queue: str) -> None:
        """Stop consuming one queue, until `resume`, also over a lost connection. What was sent already still comes.

        Raises:
            ValueError: this inbox does not consume the queue.
        """
        consumer = self._consumer_of(queue)
        self._paused.add(queue)
        async with self._changing:
            channel = self._channel
            if channel is not None and queue in self._paused and consumer in self._consuming:
                await _within_epoch(channel.amqp.basic_cancel(consumer))
                self._consuming.discard(consumer)

    async def resume(self, queue: str) -> None:
        """Consume a paused queue again.

        Raises:
            ValueError: this inbox does not consume the queue.
        """
        consumer = self._consumer_of(queue)
        self._paused.discard(queue)
        async with self._changing:
            channel = self._channel
            if channel is not None and self._is_set_up and not self._stopping and queue not in self._paused:
                await _within_epoch(self._consume(channel, consumer, queue))

    async def stop(self) -> None:
        """Stop consuming and end the iteration. Deliveries that were not yielded go back to their queues."""
        self._stopping = True
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(*LINK_ERRORS):
                for consumer in sorted(self._consuming):
                    await channel.amqp.basic_cancel(consumer, timeout=2.0)
        unread, self._arrived = self._arrived, []
        self.settle(unread, Settlement.REQUEUE)
        self._wake()

    def settle(self, deliveries: Iterable[Delivery], settlement: Settlement) -> None:
        """Settle deliveries. Those of an ended epoch are ignored: the broker has requeued them."""
        channel = self._channel
        if self._no_ack or channel is None:
            return
        tags = [delivery.tag for delivery in deliveries if delivery.epoch == channel.epoch]
        if settlement is Settlement.ACK:
            self._window.ack(tags)
        else:
            refused = filter(self._window.settle, tags)
            self._singles += [_refusal(channel.number, tag, settlement) for tag in refused]
        if self._singles or self._window.waiting * ACK_SHARE_OF_PREFETCH >= self._prefetch:
            self._cancel_flush()
            self._flush_later = channel.loop.call_soon(self._flush)
        elif self._flush_later is None:
            self._flush_later = channel.loop.call_later(ACK_DELAY_S, self._flush)

    def _cancel_flush(self) -> None:
        if self._flush_later is not None:
            self._flush_later.cancel()
            self._flush_later = None

    def _flush(self) -> None:
        self._cancel_flush()
        channel = self._channel
        if channel is None:
            return
        written, self._singles = self._singles, []
        for tag, multiple in self._window.take():
            written.append(encode_settlement(frames.BASIC_ACK, channel.number, tag, multiple))
        if written:
            channel.write(b"".join(written))

    async def opened(self, channel: Channel) -> None:
        """Called by the link: declare, then consume."""
        self._channel = channel
        self._window = AckWindow()
        if self._declare:
            for exchange in self._exchanges:
                await channel.amqp.exchange_declare(exchange.name, exchange_type=exchange.type, durable=True)
            for queue in self._queues:
                await _declare(channel.amqp, queue)
        await channel.amqp.basic_qos(prefetch_count=self._prefetch)
        self._is_set_up = True
        for queue in self._queues:
            if queue.consume and not self._stopping and queue.name not in self._paused:
                await self._consume(channel, self._consumer_of(queue.name), queue.name)

    async def _consume(self, channel: Channel, consumer: str, queue: str) -> None:
        if consumer in self._consuming:  # `opened` and `resume` may meet
            return
        self._consuming.add(consumer)
        self._queue_of[consumer.encode()] = queue
        await channel.amqp.basic_consume(queue, _unexpected, no_ack=self._no_ack, consumer_tag=consumer)

    def _consumer_of(self, queue: str) -> str:
        for index, one in enumerate(self._queues):
            if one.name == queue and one.consume:
                return f"lane-{index}"
        msg = f"this inbox does not consume {queue!r}"
        raise ValueError(msg)

    def received(self, events: list[Event]) -> None:
        """Called by the link, with the deliveries of one read of the socket."""
        channel, headers = self._channel, self._headers
        if channel is None:
            return
        arrived, queue_of, epoch = self._arrived, self._queue_of, channel.epoch
        for _, arguments, header, body in events:
            consumer, tag, redelivered = consumer_and_tag(arguments)
            arrived.append(Delivery(queue_of[consumer], body, locate(header, headers), redelivered, tag, epoch))
        self._window.delivered += len(events)
        self._wake()

    def writable(self) -> None:
        """Called by the link. Settlements never wait for it."""

    def lost(self, _error: Exception) -> None:
        """Called by the link: drop the state of the epoch in the same step of the event loop in which it ends."""
        self._channel = None
        self._queue_of = {}
        self._consuming = set()
        self._is_set_up = False
        self._arrived = []
        self._singles = []
        self._window = AckWindow()
        self._on_lost()


def _refusal(channel: int, tag: int, settlement: Settlement) -> bytes:
    if settlement is Settlement.REQUEUE:
        return encode_settlement(frames.BASIC_NACK, channel, tag, 2)
    return encode_settlement(_BASIC_REJECT, channel, tag, 0)


async def _within_epoch(work: Awaitable[Any]) -> None:
    """Await something that the end of the epoch makes pointless, and may end."""
    try:
        await work
    except LINK_ERRORS:
        pass
    except asyncio.CancelledError:
        # aiormq cancels what waits on a lost connection, although no code asked for a cancellation.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise


async def _unexpected(_message: Any) -> None:
    msg = "aiormq received a delivery that the wire should have kept"
    raise AssertionError(msg)


async def _declare(channel: Any, queue: QueueSpec) -> None:
    await channel.queue_declare(
        queue.name, durable=queue.durable, exclusive=queue.exclusive, arguments=dict(queue.arguments)
    )
    if queue.binding is not None:
        await channel.queue_bind(queue.name, queue.binding.exchange, queue.binding.routing_key)
