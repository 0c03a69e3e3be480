"""An echo made of the lane alone, and those who talk to it."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aio_pika

from amqp_lane import Delivery, Fate, Inbox, Message, Outbox, QueueSpec, Settlement


class Echo:
    """Consumes a queue, answers every message with its own body, acknowledges what was confirmed."""

    def __init__(
        self,
        url: str,
        queue: str,
        *,
        inbox_url: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        prefetch: int = 200,
        heartbeat_s: int = 10,
        nack_retries: int = 0,
        max_body_bytes: int = 16 * 2**20,
    ) -> None:
        self.seen: list[Delivery] = []
        self.fates: list[Fate] = []
        self.inbox = Inbox(
            inbox_url or url,
            [QueueSpec(queue, arguments=arguments or {"x-queue-type": "quorum"})],
            name="echo",
            prefetch=prefetch,
            heartbeat_s=heartbeat_s,
            headers=(b"wanted",),
            max_body_bytes=max_body_bytes,
        )
        self.outbox = Outbox(
            url, name="echo replies", on_fate=self._settle, heartbeat_s=heartbeat_s, nack_retries=nack_retries
        )
        self._task: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def running(cls, url: str, queue: str, **options: Any) -> AsyncIterator["Echo"]:
        """One that is started; it may not be connected yet."""
        one = cls(url, queue, **options)
        async with one.outbox, one.inbox:
            one._task = asyncio.create_task(one._run())
            try:
                yield one
            finally:
                await one.inbox.stop()
                await one._task

    async def _run(self) -> None:
        async for batch in self.inbox:
            self.seen += batch
            self.outbox.send(
                [
                    Message(
                        one.properties.reply_to or b"",
                        one.body or b"",
                        correlation_id=one.properties.correlation_id,
                        token=one,
                    )
                    for one in batch
                ]
            )

    def _settle(self, messages: list[Message], fate: Fate) -> None:
        self.fates += [fate] * len(messages)
        self.inbox.settle([one.token for one in messages], Settlement.ACK)

    async def up(self) -> None:
        """Wait until both connections are."""
        await self.inbox.consuming()
        await self.outbox.up()


class Witness:
    """Publishes requests and collects the identifiers of replies, over aio-pika."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, reply_queue: str) -> None:
        self.channel = channel
        self.reply_queue = reply_queue
        self.replies: dict[str, list[bytes]] = {}
        self.sent: dict[str, bytes] = {}

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator["Witness"]:
        """One with an exclusive reply queue."""
        connection = await aio_pika.connect(url)
        try:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            one = cls(channel, queue.name)
            await queue.consume(one._take, no_ack=True)
            yield one
        finally:
            with contextlib.suppress(Exception):
                await connection.close()

    async def _take(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        self.replies.setdefault(str(message.correlation_id), []).append(message.body)

    async def declare(self, queue: str, arguments: dict[str, Any] | None = None) -> None:
        """A durable queue."""
        await self.channel.declare_queue(
            queue, durable=True, arguments=arguments or {"x-queue-type": "quorum"}, timeout=30
        )

    async def depth(self, queue: str) -> int:
        """How many messages are ready in a queue."""
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0

    async def ask(self, queue: str, identifiers: list[str], body: bytes = b"{}", **properties: Any) -> None:
        """Publish one request for each identifier."""
        for identifier in identifiers:
            given = {"correlation_id": identifier, "reply_to": self.reply_queue, **properties}
            message = aio_pika.Message(body, **given)
            await self.channel.default_exchange.publish(message, routing_key=queue)


class Collector:
    """Collects replies, whatever their properties are: aio-pika would lose its connection to some of them."""

    def __init__(self, url: str, queue: str) -> None:
        self.queue = queue
        self.replies: dict[str, Any] = {}
        self.inbox = Inbox(
            url, [QueueSpec(queue, durable=False, exclusive=True)], name="collector", prefetch=0, no_ack=True
        )

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, queue: str) -> AsyncIterator["Collector"]:
        """One that consumes."""
        one = cls(url, queue)
        async with one.inbox:
            await one.inbox.consuming()
            task = asyncio.create_task(one._run())
            yield one
            await one.inbox.stop()
            await task

    async def _run(self) -> None:
        async for batch in self.inbox:
            for one in batch:
                identifier = (one.properties.correlation_id or b"").decode("utf-8", "backslashreplace")
                self.replies[identifier] = json.loads(one.body or b"")


class Escaped(logging.Handler):
    """Collects what nobody handled: exceptions that reached the event loop, and errors that the lane logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.all: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """From logging."""
        self.all.append(self.format(record))

    def from_loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """From the event loop."""
        self.all.append(f"{context.get('message')}: {context.get('exception')!r}")


@contextlib.contextmanager
def escaped_errors() -> Any:
    """What escapes in this block; it must be empty at the end."""
    loop, log, handler = asyncio.get_running_loop(), logging.getLogger("amqp_lane"), Escaped()
    log.addHandler(handler)
    loop.set_exception_handler(handler.from_loop)
    try:
        yield handler
    finally:
        loop.set_exception_handler(None)
        log.removeHandler(handler)
    assert handler.all == []
