"""A connection to Redis that reconnects. Only this file imports redis-py, to read the URL."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from redis.asyncio import ConnectionPool

from prediction_responder.cache.port import CacheRefused, CacheUnavailable
from prediction_responder.cache.redis_pipeline import Command, Pipelined, Subscription
from prediction_responder.clock import SYSTEM_CLOCK, Clock
from prediction_responder.observe.logs import logger

log = logger(__name__)

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 1.0
PING_EVERY_S = 1.0


class InvalidCacheUrl(ValueError):
    """REDIS_URL has an option that redis-py does not know; the message names it and shows no value."""


class RedisLink:
    """Commands to Redis on one connection, which reconnects when it is lost.

    No caller waits for a lost connection: pending commands fail at once, and so do later ones until a new connection
    works.

    redis-py reads the URL (address, TLS, credentials, database), hiredis packs commands and parses replies. The socket
    is ours: redis-py is slower, because of its pool, and its locks, tasks and timers for each command.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: how long one command may take, and how long connecting may take. A command that takes longer ends the
            connection, because its reply could be mistaken for the reply to the next command.
        subscription: the channels to listen to, if the connection is for pushes. It carries no commands that would fail
            when it dies, so it sends a PING every second.
        clock: for timeouts.
        prepare: commands to send on each new connection; Redis may refuse them.

    Attributes:
        ask: sends a command, given as its words; returns a future of the reply, bytes undecoded. The future raises
            CacheUnavailable, within the timeout, when there is no reply or the reply is an error. Cancelling it is
            harmless: its reply is read and dropped.

    Raises:
        InvalidCacheUrl: the URL has an option that redis-py does not know.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float,
        subscription: Subscription | None = None,
        prepare: Sequence[Command] = (),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._prepare = prepare
        self._subscription = subscription
        self._purpose = "commands" if subscription is None else "pushes"
        self._timeout_s = timeout_s
        try:
            pool: Any = ConnectionPool.from_url(url)
            self._target: Any = pool.make_connection()  # does not connect, but refuses unknown options
        except (TypeError, ValueError) as error:
            msg = f"REDIS_URL: {error}"
            raise InvalidCacheUrl(msg) from error
        self._problem = "not connected yet"
        self._up: Pipelined | None = None
        self.ask: Callable[..., asyncio.Future[Any]] = (
            self._refuse
        )  # the connection's own while it is up: one call less
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<RedisLink {self._up or self._problem}>"

    async def __aenter__(self) -> Self:
        """Connect, or return after the first failure and keep trying."""
        self._task = asyncio.create_task(self._supervise(), name="redis link")
        try:
            await self._tried.wait()
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    @property
    def is_up(self) -> bool:
        """Whether commands are sent; while False they fail at once."""
        return self._up is not None

    @property
    def problem(self) -> str | None:
        """Why it is not up, in one line; None while it is."""
        return None if self._up is not None else self._problem

    def _refuse(self, *_command: str | bytes | int) -> "asyncio.Future[Any]":
        """What `ask` is while the connection is down."""
        return self.refusal(self._problem)

    @staticmethod
    def refusal(problem: str) -> "asyncio.Future[Any]":
        """A reply that is not to come."""
        failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        failed.set_exception(CacheUnavailable(problem))
        failed.exception()  # mark it as retrieved, or asyncio logs it if it is never awaited
        return failed

    def tell(self, *command: str | bytes | int) -> None:
        """Write a command to the socket before this returns. Its reply is not read, and its failure not reported."""
        if self._up is not None:
            self._up.tell(command)

    async def _supervise(self) -> None:
        delay_s, said = FIRST_DELAY_S, ""
        while True:
            connection = Pipelined(self._timeout_s, self._subscription, self._clock)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._connect(connection)
                delay_s, said = FIRST_DELAY_S, ""
                self._up, self.ask = connection, connection.ask
                self._tried.set()
                log.info("redis_connected", to=self._purpose)
                await self._watch(connection)
                self._problem = connection.ended.result()
            except TimeoutError:
                self._problem = f"cannot connect within {self._timeout_s:g} s"
            except (CacheUnavailable, OSError) as error:
                self._problem = f"{type(error).__name__}: {error}"
            except Exception as error:
                self._problem = f"{type(error).__name__}: {error}"
                log.exception("redis_link_failed")
            finally:
                self._up, self.ask = None, self._refuse
                connection.end("closed")
            self._tried.set()
            if self._problem != said:  # once per outage
                said = self._problem
                log.warning("redis_away", to=self._purpose, problem=said)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)

    async def _connect(self, connection: "Pipelined") -> None:
        """Open the socket and log in; the PING proves that Redis answers and accepts our login."""
        loop, target = asyncio.get_running_loop(), self._target
        context = target.ssl_context.get() if hasattr(target, "ssl_context") else None
        if hasattr(target, "path"):
            await loop.create_unix_connection(lambda: connection, target.path, ssl=context)
        else:
            await loop.create_connection(lambda: connection, target.host, target.port, ssl=context)
        hello: list[Command] = [("PING",)]
        if target.db:
            hello.insert(0, ("SELECT", target.db))
        if target.username or target.password:
            hello.insert(0, ("AUTH", *([target.username] if target.username else []), target.password or ""))
        first, *others = self._subscription.channels if self._subscription is not None else (None,)
        if first is not None:
            hello.append(("SUBSCRIBE", first))
        for reply in [connection.ask(*command) for command in hello]:
            await reply
        for reply in [connection.ask("SUBSCRIBE", channel) for channel in others if channel is not None]:
            with contextlib.suppress(CacheRefused):  # a user without the right to announcements still gets pushes
                await reply
        for reply in [connection.ask(*command) for command in self._prepare]:
            with contextlib.suppress(CacheRefused):
                await reply
        with contextlib.suppress(CacheRefused):
            # Where CLIENT is forbidden, SKIP would get a reply, and every later reply would go to the wrong command.
            connection.can_skip = await connection.ask("CLIENT", "REPLY", "ON") == b"OK"

    async def _watch(self, connection: "Pipelined") -> None:
        """Wait until the connection has ended."""
        if self._subscription is None:
            await asyncio.wait({connection.ended})
            return
        self._subscription.on_begun()
        while not (await asyncio.wait({connection.ended}, timeout=PING_EVERY_S))[0]:
            connection.ask("PING").add_done_callback(lambda asked: asked.cancelled() or asked.exception())
