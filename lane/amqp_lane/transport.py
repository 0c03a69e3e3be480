"""What carries messages: a broker over AMQP, or none at all."""

from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from amqp_lane.inbox import Inbox
from amqp_lane.outbox import Outbox
from amqp_lane.port import Delivery, Message, QueueSpec, Settlement


class Consumer(Protocol):
    """What an `Inbox` is to those who use it; see there."""

    @property
    def is_consuming(self) -> bool:
        """True while every queue has a consumer."""

    @property
    def unsettled(self) -> int:
        """Deliveries that are not settled yet."""

    @property
    def last_error(self) -> str | None:
        """Why it does not consume."""

    async def consuming(self) -> None:
        """Wait until it consumes."""

    def __aiter__(self) -> AsyncIterator[list[Delivery]]:
        """Batches, until it is stopped."""

    def settle(self, deliveries: Iterable[Delivery], settlement: Settlement) -> None:
        """Tell what became of deliveries."""

    def restart(self, why: str) -> None:
        """Give everything unsettled back."""

    async def stop(self) -> None:
        """Consume no more."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Publisher(Protocol):
    """What an `Outbox` is to those who use it; see there."""

    @property
    def is_up(self) -> bool:
        """True while messages can be written."""

    @property
    def unconfirmed(self) -> int:
        """Messages whose fate is not known yet."""

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
    """Makes both ends; options are those of `Inbox` and `Outbox`."""

    def inbox(self, queues: Sequence[QueueSpec], **options: Any) -> Consumer:
        """What consumes queues."""

    def outbox(self, **options: Any) -> Publisher:
        """What publishes messages."""


class Amqp:
    """RabbitMQ.

    Args:
        url: its AMQP URL.
        heartbeat_s: see `lane.connection.Link`.
    """

    def __init__(self, url: str, *, heartbeat_s: int = 10) -> None:
        self._url = url
        self._heartbeat_s = heartbeat_s

    def inbox(self, queues: Sequence[QueueSpec], **options: Any) -> Inbox:
        """On a connection of its own."""
        return Inbox(self._url, queues, heartbeat_s=self._heartbeat_s, **options)

    def outbox(self, **options: Any) -> Outbox:
        """On a connection of its own."""
        return Outbox(self._url, heartbeat_s=self._heartbeat_s, **options)
