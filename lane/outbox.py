"""Messages out, and what became of each."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from aio_pika.abc import AbstractChannel
from aiormq.abc import AbstractChannel as UnderlayChannel
from aiormq.exceptions import ChannelInvalidStateError, DeliveryError
from pamqp import commands as spec

from lane.connection import LINK_ERRORS, Link
from lane.port import Fate, Message, Properties

log = logging.getLogger("lane")


class Outbox:
    """Publishes messages with confirms, on a connection of its own, and reports each one's fate once.

    Args:
        url, name, heartbeat_s: see `lane.connection.Link`.
        exchange: where to publish; the empty name is the default exchange.
        patience_s: how long a message may take, retries included, before it is ABANDONED.
        on_fate: called with lists of (message, fate).
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        on_fate: Callable[[list[tuple[Message, Fate]]], None],
        exchange: str = "",
        heartbeat_s: int = 10,
        patience_s: float = 10.0,
    ) -> None:
        self._exchange = exchange
        self._patience_s = patience_s
        self._on_fate = on_fate
        self._link = Link(url, name=name, heartbeat_s=heartbeat_s, confirms=True, setup=self._set_up, lost=self._forget)
        self._channel: UnderlayChannel | None = None
        self._publishing: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Outbox {self._link!r} unconfirmed={len(self._publishing)}>"

    @property
    def is_up(self) -> bool:
        """True while messages can be written."""
        return self._link.is_up

    @property
    def unconfirmed(self) -> int:
        """Messages whose fate is not known yet."""
        return len(self._publishing)

    async def up(self) -> None:
        """Wait until messages can be written."""
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
        for task in self._publishing:
            task.cancel()
        await asyncio.gather(*self._publishing, return_exceptions=True)
        await self._link.__aexit__(kind, error, trace)

    def send(self, messages: Sequence[Message]) -> None:
        """Publish messages; each one's fate comes later, to `on_fate`."""
        for message in messages:
            task = asyncio.create_task(self._publish(message))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    async def drained(self) -> None:
        """Wait until the fate of every message so far is known."""
        while self._publishing:
            await asyncio.wait(self._publishing)

    async def _set_up(self, channel: AbstractChannel) -> None:
        self._channel = await channel.get_underlay_channel()

    def _forget(self) -> None:
        self._channel = None

    async def _publish(self, message: Message) -> None:
        fate = Fate.ABANDONED
        try:
            async with asyncio.timeout(self._patience_s):
                fate = await self._attempts(message)
        except TimeoutError:
            log.warning("gave a message up after %.1f s", self._patience_s)
        finally:
            self._on_fate([(message, fate)])

    async def _attempts(self, message: Message) -> Fate:
        while True:
            await self._link.up()
            channel = self._channel
            if channel is None:
                continue
            try:
                return await self._attempt(channel, message)
            except DeliveryError:
                return Fate.REFUSED
            except ChannelInvalidStateError:
                await asyncio.sleep(0)  # never written: the next epoch may have it
            except (*LINK_ERRORS, asyncio.CancelledError):
                # aiormq rejects pending confirmations with the error, or the cancellation, that ended the channel.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                if not message.retry:
                    return Fate.ABANDONED

    async def _attempt(self, channel: UnderlayChannel, message: Message) -> Fate:
        frame = await channel.basic_publish(
            message.body,
            exchange=self._exchange,
            routing_key=message.routing_key.decode("utf-8", "surrogateescape"),
            properties=_basic(message.properties),
            mandatory=message.mandatory,
        )
        if isinstance(frame, spec.Basic.Ack):
            return Fate.CONFIRMED
        return Fate.REFUSED if isinstance(frame, spec.Basic.Nack | spec.Basic.Reject) else Fate.RETURNED


def _basic(properties: Properties) -> spec.Basic.Properties:
    return spec.Basic.Properties(
        content_type=_text(properties.content_type),
        content_encoding=_text(properties.content_encoding),
        correlation_id=_text(properties.correlation_id),
        message_id=_text(properties.message_id),
        reply_to=_text(properties.reply_to),
        expiration=_text(properties.expiration),
        message_type=_text(properties.type),
        user_id=_text(properties.user_id),
        headers={name.decode(): value.decode() for name, value in properties.headers.items() if value is not None},
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
