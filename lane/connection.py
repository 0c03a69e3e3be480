"""The glue to aio-pika: one supervised connection with one channel, brought back whenever either ends.

A connection carries one channel, and when one of the two ends both end. So an *epoch* is simply the time
between two connections: delivery tags and confirm numbers of an ended epoch are forgotten with it, and
no channel number is ever used twice on one socket.

aio-pika's robust classes are not used: their delay between attempts is fixed, a channel error makes them
reopen and redeliver with no delay at all, and one queue whose declaration no longer matches keeps
every channel from coming back.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import aio_pika
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import AMQPConnectionError, AMQPError
from yarl import URL

log = logging.getLogger("lane")

CONNECT_TIMEOUT_S = 10.0
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
CLOSE_TIMEOUT_S = 2.0
# Errors of a connection or a channel that end an epoch and are no fault of this program.
LINK_ERRORS = (AMQPError, ConnectionError, OSError, asyncio.TimeoutError)


class BrokerRefused(Exception):
    """The broker refuses what was asked (a declaration, a permission); trying again as it is will not help."""


Setup = Callable[[AbstractChannel], Awaitable[None]]


class Link:
    """A connection that comes back.

    Args:
        url: an AMQP URL; its user, password, virtual host, TLS and query options are aio-pika's.
        name: shown in RabbitMQ's list of connections.
        heartbeat_s: a dead peer is noticed after about three times this.
        setup: run on each new channel; when it fails, the epoch ends and the next one begins after a delay.
        lost: called, synchronously, in the same step in which an epoch is known to have ended.
    """

    def __init__(
        self, url: str, *, name: str, heartbeat_s: int, confirms: bool, setup: Setup, lost: Callable[[], None]
    ) -> None:
        self._url = URL(url).update_query(heartbeat=str(heartbeat_s), name=name)
        self._name = name
        self._confirms = confirms
        self._setup = setup
        self._lost = lost
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._ended: asyncio.Future[None] | None = None
        self.epoch = 0
        self.last_error: str | None = None

    def __repr__(self) -> str:
        return f"<Link {self._name} epoch={self.epoch} {'up' if self.is_up else 'down'}>"

    @property
    def is_up(self) -> bool:
        """True while a channel is open and set up."""
        return self._up.is_set()

    async def up(self) -> None:
        """Wait until a channel is open and set up."""
        await self._up.wait()

    def restart(self, why: str) -> None:
        """End this epoch and begin another."""
        self._end(ConnectionError(why))

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._supervise(), name=f"link {self._name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _supervise(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._one_epoch()
            except LINK_ERRORS as error:
                self.last_error = describe(error)
                log.warning("%s: %s; trying again in %.1f s", self._name, self.last_error, delay_s)
            if asyncio.get_running_loop().time() - began > MAX_DELAY_S:
                delay_s = FIRST_DELAY_S
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)

    async def _one_epoch(self) -> None:
        self.epoch += 1
        self._ended = asyncio.get_running_loop().create_future()
        connection = await aio_pika.connect(self._url, timeout=CONNECT_TIMEOUT_S)
        connection.close_callbacks.add(self._on_closed)
        try:
            channel = connection.channel(publisher_confirms=self._confirms, on_return_raises=False)
            await asyncio.wait_for(channel.initialize(), CONNECT_TIMEOUT_S)
            channel.close_callbacks.add(self._on_closed)
            try:
                await self._setup(channel)
                self.last_error = None
                self._up.set()
                await self._ended
            finally:
                self._up.clear()
                self._lost()
        finally:
            with contextlib.suppress(*LINK_ERRORS):
                await asyncio.wait_for(connection.close(), CLOSE_TIMEOUT_S)

    def _on_closed(self, _sender: object, error: BaseException | None = None) -> None:
        self._end(error if isinstance(error, LINK_ERRORS) else ConnectionError("closed"))

    def _end(self, error: Exception) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)


def describe(error: BaseException) -> str:
    """One line about a connection error, without the URL's password."""
    if isinstance(error, AMQPConnectionError) and error.__cause__ is not None and not str(error):
        return describe(error.__cause__)
    return f"{type(error).__name__}: {error}".rstrip(": ")
