"""The adapter to aio-pika: one supervised connection with one channel, reopened when either of them ends.

aio-pika and aiormq handle the URL, TLS, authentication, heartbeats, the channel and its declarations. Our own stream
protocol sits between them and the socket, installed through aiormq's `TransportFactory`. It keeps the frames that
carry messages and passes every other frame on unchanged.

A connection carries one channel, and when either ends, both end. So an *epoch* is the life of one connection. Delivery
tags and confirm numbers are dropped when their epoch ends, and no channel number is used twice on one socket.

aio-pika's robust classes are not used, for three reasons: their delay between attempts is fixed; after a channel error
they reopen and redeliver without any delay; one queue whose declaration no longer matches stops every channel from
reopening.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

import aio_pika
import aiormq
from aiormq.abc import AbstractChannel
from yarl import URL

from amqp_lane.frames import Event, Splitter
from amqp_lane.wire import WATCHED, Moderation, Wire

log = logging.getLogger("amqp_lane")

CONNECT_TIMEOUT_S = 10.0
FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0
WORKED_S = 1.0  # a connection that was up for longer resets the delay
CLOSE_TIMEOUT_S = 2.0
CLOSE_PAUSE_S = 0.01  # aio-pika runs its close callbacks in tasks, which end a little later
# Expected errors that end an epoch: of the connection or of the channel, not a bug here.
LINK_ERRORS = (aiormq.AMQPError, ConnectionError, OSError, asyncio.TimeoutError)


class User(Protocol):
    """What a link calls: an inbox or an outbox."""

    async def opened(self, channel: "Channel") -> None:
        """An epoch begins. When this raises, the epoch ends."""

    def received(self, events: list[Event]) -> None:
        """One read of the socket brought these events."""

    def writable(self) -> None:
        """The socket accepts data again, after `Channel.can_write` was False."""

    def lost(self, error: Exception) -> None:
        """The epoch has ended with this error. Called at once when that is known, once for each `opened`."""


@dataclass(slots=True, eq=False)
class Channel:
    """The channel of one epoch: aiormq's channel for declarations, and the socket for messages.

    `frame_max` is the negotiated maximum frame size, overhead included.
    """

    amqp: AbstractChannel
    wire: Wire
    epoch: int
    loop: asyncio.AbstractEventLoop = field(init=False)
    number: int = field(init=False)
    frame_max: int = field(init=False)

    def __post_init__(self) -> None:
        self.loop = asyncio.get_running_loop()  # kept: asking for it is a system call, too slow for every batch
        self.number = self.amqp.number
        self.frame_max = int(self.amqp.connection.connection_tune.frame_max) or 131_072

    @property
    def can_write(self) -> bool:
        """Whether the socket's buffer has room and the broker has not blocked publishers."""
        return self.wire.can_write

    def write(self, data: bytes) -> None:
        """Write whole frames."""
        self.wire.write(data)


class _Transports(aiormq.TransportFactory):
    """Opens sockets with a `Wire` on them."""

    def __init__(self, make_wire: Callable[[asyncio.StreamReader], Wire]) -> None:
        self._make_wire = make_wire

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider: aiormq.SSLContextProvider = kwargs.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        try:
            transport, wire = await loop.create_connection(
                lambda: self._make_wire(reader), url.host or "localhost", url.port or 5672, ssl=context, **kwargs
            )
        except OSError as error:
            raise aiormq.AMQPConnectionError(*error.args) from error
        return reader, asyncio.StreamWriter(transport, wire, reader, loop)


class _Connection(aio_pika.Connection):
    """aio-pika's connection on our transport, set afterwards: the constructor drops parameters unknown to it."""

    def __init__(self, url: URL, *args: Any, transports: _Transports, **kwargs: Any) -> None:
        super().__init__(url, *args, **kwargs)
        self.kwargs["transport_factory"] = transports


class Link:
    """A connection that reconnects.

    Args:
        url: an AMQP URL; its user, password, virtual host, TLS and query options are aio-pika's.
        user: the inbox or outbox that it serves.
        name: shown in RabbitMQ's list of connections.
        heartbeat_s: a dead peer is noticed after about three times this.
        keep: the methods that the user handles.
        confirms: put the channel into confirm mode.
        max_body_bytes: a received message with a larger body comes without its body.
        moderation: see `amqp_lane.wire.Wire`.

    Raises:
        ValueError: the URL turns off the verification of the server's certificate.
    """

    def __init__(
        self,
        url: str,
        user: User,
        *,
        name: str,
        heartbeat_s: int,
        keep: Collection[bytes],
        confirms: bool,
        moderation: Moderation,
        max_body_bytes: int = 16 * 2**20,
    ) -> None:
        self._moderation = moderation
        if set(URL(url).query.getall("no_verify_ssl", ["0"])) != {"0"}:
            msg = "no_verify_ssl would trust any server; name the certificate authority with cafile=... instead"
            raise ValueError(msg)
        self._url = URL(url).update_query(heartbeat=str(heartbeat_s), name=name)
        self._user = user
        self._name = name
        self._keep = keep
        self._confirms = confirms
        self._max_body_bytes = max_body_bytes
        self._task: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._ended: asyncio.Future[None] | None = None
        self._wire: Wire | None = None
        self._is_open = False
        self._up_at = math.inf
        self.has_worked = False  # set by the user: the connection was useful, even if it was up for less than WORKED_S
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

    def received(self, wire: Wire, events: list[Event]) -> None:
        """Called by the wire. Events of a wire whose epoch has ended are ignored."""
        if events and self._is_open and wire is self._wire:
            self._user.received(events)

    def writable(self, wire: Wire) -> None:
        """Called by the wire."""
        if self._is_open and wire is self._wire:
            self._user.writable()

    def end(self, error: Exception, wire: Wire | None = None) -> None:
        """End this epoch; the next one begins after a delay. A wire can end only its own epoch."""
        if wire is not None and wire is not self._wire:
            return
        if self._is_open:
            self._is_open = False
            self._up.clear()
            self._user.lost(error)
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._supervise(), name=f"link {self._name}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})  # unlike `await task`, this raises only a cancellation of our own task
            if not self._task.cancelled():
                self._task.result()

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = FIRST_DELAY_S
        while True:
            try:
                await self._one_epoch()
            except asyncio.CancelledError:
                # aiormq cancels what waits on a lost connection, although no code asked for a cancellation.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self.last_error = "the connection was lost"
            except LINK_ERRORS as error:
                self.last_error = describe(error)
            except Exception as error:
                self.last_error = describe(error)
                log.exception("%s: unexpected error", self._name)
            # A connection that keeps failing right after it opened is retried at a growing delay.
            if self.has_worked or loop.time() - self._up_at > WORKED_S:
                delay_s = FIRST_DELAY_S
            self._up_at, self.has_worked = math.inf, False
            log.warning("%s: %s; trying again in %.1f s", self._name, self.last_error, delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)

    async def _one_epoch(self) -> None:
        self.epoch += 1
        self._ended = asyncio.get_running_loop().create_future()
        transports = _Transports(self._make_wire)
        connection = _Connection(self._url, transports=transports)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await connection.connect()
                opened = connection.channel(publisher_confirms=self._confirms, on_return_raises=False)
                await opened.initialize()
                amqp = await opened.get_underlay_channel()
                if self._wire is None:
                    raise ConnectionError("aiormq did not use the transport factory")
                self._is_open = True
                await self._user.opened(Channel(amqp, self._wire, self.epoch))
            if self._is_open:
                self.last_error = None
                self._up_at = asyncio.get_running_loop().time()
                self._up.set()
            await asyncio.wait({self._ended})
            self._ended.result()
        except aiormq.exceptions.InvalidFrameError:
            if self._ended.done():
                self._ended.result()  # raises the broker's own reason, where aiormq expected another frame
            raise
        finally:
            self.end(ConnectionError("closed"))
            if self._ended.done():
                self._ended.exception()  # mark it as retrieved, or asyncio logs it as never retrieved
            await self._close(connection)

    async def _close(self, connection: aio_pika.Connection) -> None:
        """Close with the AMQP handshake, but not for longer than CLOSE_TIMEOUT_S: a peer may have stopped reading.

        Then the socket is dropped with the unsent data in its buffer.
        """
        wire, self._wire = self._wire, None
        closing = asyncio.ensure_future(connection.close())
        try:
            await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)
        finally:
            if wire is not None:
                wire.abort()
            if not closing.done():
                await asyncio.wait({closing}, timeout=CLOSE_PAUSE_S)
                closing.cancel()
            elif not closing.cancelled():
                closing.exception()
        await asyncio.sleep(CLOSE_PAUSE_S)

    def _make_wire(self, reader: asyncio.StreamReader) -> Wire:
        self._wire = Wire(reader, Splitter(self._keep, WATCHED, self._max_body_bytes), self, self._moderation)
        return self._wire


def describe(error: BaseException) -> str:
    """One line about a connection error."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
