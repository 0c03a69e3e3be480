"""The interface of a transport, and its AMQP implementation. `amqp_lane.memory` has one without a broker."""

from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Protocol, Self, Unpack

from amqp_lane.inbox import Inbox
from amqp_lane.options import InboxOptions, OutboxOptions
from amqp_lane.outbox import Outbox
from amqp_lane.port import Delivery, Message, QueueSpec, Settlement


class Consumer(Protocol):
    """The interface of an `Inbox`; see there."""

    @property
    def is_consuming(self) -> bool:
        """True while every queue that is not paused has a consumer."""

    @property
    def unsettled(self) -> int:
        """How many deliveries are not settled yet."""

    @property
    def last_error(self) -> str | None:
        """Why it does not consume."""

    async def consuming(self) -> None:
        """Wait until every queue has a consumer."""

    def __aiter__(self) -> AsyncIterator[list[Delivery]]:
        """Yield batches until `stop` is called."""

    def settle(self, deliveries: Iterable[Delivery], settlement: Settlement) -> None:
        """Settle deliveries."""

    def restart(self, why: str) -> None:
        """Give all unsettled deliveries back to the broker."""

    async def pause(self, queue: str) -> None:
        """Stop consuming one queue; what was delivered already still comes."""

    async def resume(self, queue: str) -> None:
        """Consume a queue again."""

    async def stop(self) -> None:
        """Stop consuming."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Publisher(Protocol):
    """The interface of an `Outbox`; see there."""

    @property
    def is_up(self) -> bool:
        """True while messages can be written."""

    @property
    def unconfirmed(self) -> int:
        """How many messages have no known fate yet."""

    @property
    def last_error(self) -> str | None:
        """Why nothing can be written."""

    async def up(self) -> None:
        """Wait until messages can be written."""

    def send(self, messages: Sequence[Message]) -> None:
        """Publish messages."""

    async def drained(self) -> None:
        """Wait until every fate is known."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Transport(Protocol):
    """Makes consumers and publishers; the options are those of `Inbox` and `Outbox`."""

    def inbox(self, queues: Sequence[QueueSpec], **options: Unpack[InboxOptions]) -> Consumer:
        """Make a consumer of these queues."""

    def outbox(self, **options: Unpack[OutboxOptions]) -> Publisher:
        """Make a publisher."""


class Amqp:
    """RabbitMQ.

    Args:
        url: its AMQP URL.
        heartbeat_s: see `amqp_lane.connection.Link`.
    """

    def __init__(self, url: str, *, heartbeat_s: int = 10) -> None:
        self._url = url
        self._heartbeat_s = heartbeat_s

    def inbox(self, queues: Sequence[QueueSpec], **options: Unpack[InboxOptions]) -> Inbox:
        """Make an inbox with its own connection."""
        return Inbox(self._url, queues, heartbeat_s=self._heartbeat_s, **options)

    def outbox(self, **options: Unpack[OutboxOptions]) -> Outbox:
        """Make an outbox with its own connection."""
        return Outbox(self._url, heartbeat_s=self._heartbeat_s, **options)
