"""A broker in this process, for tests: queues are lists, and there is no network.

Messages are encoded and parsed by the same code as on a socket. Only the effects of a network are left out.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self, Unpack

from amqp_lane.encoding import encode_content
from amqp_lane.options import InboxOptions, OutboxOptions, check_options
from amqp_lane.port import Delivery, Fate, Message, QueueSpec, Settlement
from amqp_lane.properties import locate

_FRAME_MAX = 131_072
_FRAME_HEAD = 7


class MemoryBroker:
    """A transport that connects its inboxes and outboxes in memory; see `amqp_lane.transport`.

    Attributes:
        dead: the dead-lettered deliveries.
    """

    def __init__(self) -> None:
        self.dead: list[Delivery] = []
        self._inboxes: dict[str, MemoryInbox] = {}
        self._waiting: dict[str, deque[tuple[bytes, Message]]] = defaultdict(deque)
        self._bound: dict[tuple[str, bytes], str] = {}

    def inbox(self, queues: Sequence[QueueSpec], **options: Unpack[InboxOptions]) -> "MemoryInbox":
        """Make a consumer of these queues, and create them."""
        one = MemoryInbox(self, [queue.name for queue in queues if queue.consume], **options)
        for queue in queues:
            self._waiting[queue.name]
            if queue.binding is not None:
                self._bound[queue.binding.exchange, queue.binding.routing_key.encode()] = queue.name
        return one

    def outbox(self, **options: Unpack[OutboxOptions]) -> "MemoryOutbox":
        """Make a publisher."""
        return MemoryOutbox(self, **options)

    def route(self, exchange: str, message: Message, content: bytes) -> Fate:
        """Put a message into its queue; return its fate."""
        key = message.routing_key
        name = self._bound.get((exchange, key)) if exchange else key.decode("utf-8", "replace")
        if name is None or name not in self._waiting:
            return Fate.RETURNED if message.mandatory else Fate.CONFIRMED
        self._waiting[name].append((content, message))
        self.deliver(name)
        return Fate.CONFIRMED

    def consume(self, inbox: "MemoryInbox", names: Iterable[str]) -> None:
        """Deliver the messages of these queues to an inbox from now on."""
        for name in names:
            self._inboxes[name] = inbox
            self.deliver(name)

    def forget(self, names: Iterable[str]) -> None:
        """Stop delivering: messages wait in these queues."""
        for name in names:
            self._inboxes.pop(name, None)

    def requeue(self, name: str, content: bytes, message: Message) -> None:
        """Put a message back at the head of its queue."""
        self._waiting[name].appendleft((content, message))
        self.deliver(name)

    def deliver(self, name: str) -> None:
        """Deliver the messages that wait in a queue, if it has a consumer."""
        inbox, waiting = self._inboxes.get(name), self._waiting[name]
        while inbox is not None and waiting:
            inbox.take(name, *waiting.popleft())


class MemoryInbox:
    """See `amqp_lane.inbox.Inbox`."""

    last_error: str | None = None

    def __init__(self, broker: MemoryBroker, queues: Sequence[str], **options: Unpack[InboxOptions]) -> None:
        check_options(options, InboxOptions)
        self._broker = broker
        self._queues = queues
        self._paused: set[str] = set()
        self._name = options["name"]
        self._headers = frozenset(options.get("headers", ()))
        self._max_body_bytes = options.get("max_body_bytes", 16 * 2**20)
        self._no_ack = options.get("no_ack", False)
        self._arrived: list[Delivery] = []
        self._held: dict[int, tuple[str, bytes, Message]] = {}
        self._tag = 0
        self._stopping = False
        self._news = asyncio.Event()
        self.is_consuming = False

    def __repr__(self) -> str:
        return f"<MemoryInbox {self._name} epoch=1 unsettled={self.unsettled}>"

    @property
    def unsettled(self) -> int:
        return len(self._held)

    def take(self, queue: str, content: bytes, message: Message) -> None:
        """Called by the broker, with a message."""
        self._tag += 1
        size = int.from_bytes(content[3:_FRAME_HEAD])
        properties = locate(content[_FRAME_HEAD : _FRAME_HEAD + size], self._headers)
        body = message.body if len(message.body) <= self._max_body_bytes else None
        self._arrived.append(Delivery(queue, body, properties, redelivered=False, tag=self._tag, epoch=1))
        if not self._no_ack:
            self._held[self._tag] = queue, content, message
        self._news.set()

    async def consuming(self) -> None:
        """Return at once."""

    async def __aenter__(self) -> Self:
        self.is_consuming = True
        self._broker.consume(self, [name for name in self._queues if name not in self._paused])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self.restart("closed")

    async def __aiter__(self) -> AsyncIterator[list[Delivery]]:
        while True:
            while not self._arrived and not self._stopping:
                self._news.clear()
                await self._news.wait()
            if self._arrived:
                batch, self._arrived = self._arrived, []
                yield batch
            elif self._stopping:
                return

    def settle(self, deliveries: Iterable[Delivery], settlement: Settlement) -> None:
        for one in deliveries:
            held = self._held.pop(one.tag, None)
            if held is not None and settlement is Settlement.REQUEUE:
                self._broker.requeue(*held)
            elif held is not None and settlement is Settlement.DEAD_LETTER:
                self._broker.dead.append(one)

    def restart(self, why: str) -> None:
        held, self._held, self._arrived = list(self._held.values()), {}, []
        for one in reversed(held):
            self._broker.requeue(*one)

    async def pause(self, queue: str) -> None:
        self._check(queue)
        self._paused.add(queue)
        if self.is_consuming:
            self._broker.forget([queue])

    async def resume(self, queue: str) -> None:
        self._check(queue)
        self._paused.discard(queue)
        if self.is_consuming:
            self._broker.consume(self, [queue])

    def _check(self, queue: str) -> None:
        if queue not in self._queues:
            msg = f"this inbox does not consume {queue!r}"
            raise ValueError(msg)

    async def stop(self) -> None:
        self._stopping, self.is_consuming = True, False
        self._broker.forget(self._queues)
        unread, self._arrived = self._arrived, []
        self.settle(unread, Settlement.REQUEUE)
        self._news.set()


class MemoryOutbox:
    """See `amqp_lane.outbox.Outbox`."""

    is_up = True
    last_error: str | None = None

    def __init__(self, broker: MemoryBroker, **options: Unpack[OutboxOptions]) -> None:
        check_options(options, OutboxOptions)
        self._broker = broker
        self._name = options["name"]
        self._on_fate = options["on_fate"]
        self._exchange = options.get("exchange", "")
        self._sent: list[Message] = []
        self._empty = asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"<MemoryOutbox {self._name} epoch=1 unconfirmed={self.unconfirmed}>"

    @property
    def unconfirmed(self) -> int:
        return len(self._sent)

    async def up(self) -> None:
        """Return at once."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._publish()

    def send(self, messages: Sequence[Message]) -> None:
        if messages and not self._sent:
            asyncio.get_running_loop().call_soon(self._publish)
            self._empty.clear()
        self._sent.extend(messages)

    async def drained(self) -> None:
        await self._empty.wait()

    def _publish(self) -> None:
        """Publish in a later turn of the event loop, as with a network."""
        sent, self._sent = self._sent, []
        fates: dict[Fate, list[Message]] = defaultdict(list)
        now = asyncio.get_running_loop().time()
        for message in sent:
            fates[Fate.ABANDONED if message.give_up_at <= now else self._fate(message)].append(message)
        self._empty.set()
        for fate, messages in fates.items():
            self._on_fate(messages, fate)

    def _fate(self, message: Message) -> Fate:
        try:
            content = encode_content(
                1,
                message.template,
                b"",
                _FRAME_MAX,
                correlation_id=message.correlation_id,
                expiration=message.expiration,
                fields=message.fields,
            )
        except ValueError:
            return Fate.REFUSED
        return self._broker.route(self._exchange, message, content)
