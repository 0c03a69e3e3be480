"""One pipelined connection to Redis; the only file here that knows redis-py."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import hiredis
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from responder.cache.port import CacheUnavailable
from responder.logs import logger

log = logger(__name__)

# Its stub knows one argument only.
_pack: Callable[[tuple[str | bytes | int, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]

FIRST_DELAY_S = 0.05
MAX_DELAY_S = 1.0


class InvalidCacheUrl(ValueError):
    """REDIS_URL has an option that redis-py does not know; the message names it and shows no value."""


class RedisLink:
    """One connection to Redis. What is asked in one turn of the event loop leaves in one write; replies come in order.

    redis-py opens the connection (URL, TLS, credentials, database). A pool of connections, a lock and a timeout for
    each command are what makes a client slow here, so there are none: a command is a future in a queue.

    Nobody ever waits for a connection that is down: what was asked when it is lost fails at once, and so does what
    is asked until a new one has worked.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: how long one command may take, and how long connecting may take. A command that takes longer ends the
            connection, because the reply to it could no longer be told from the reply to the next one.

    Raises:
        InvalidCacheUrl: the URL has an option that nobody knows.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        try:
            pool: Any = ConnectionPool.from_url(
                url, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0)
            )
            self._make_connection: Callable[[], Any] = pool.make_connection
            self._make_connection()  # connects nothing, but refuses options that nobody knows
        except (TypeError, ValueError) as error:
            msg = f"REDIS_URL: {error}"
            raise InvalidCacheUrl(msg) from error
        self._problem = "not connected yet"
        self._is_up = False
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._queued: list[bytes] = []
        self._has_queued = asyncio.Event()
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._lost: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<RedisLink {'up' if self._is_up else self._problem} waiting={len(self._asked)}>"

    async def __aenter__(self) -> Self:
        """Try to connect once; whether that worked or not, trying goes on."""
        self._task = asyncio.create_task(self._supervise(), name="redis link")
        await self._tried.wait()
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
        return self._is_up

    def ask(self, *command: str | bytes | int) -> "asyncio.Future[Any]":
        """Send a command; the future's result is the reply, bytes undecoded.

        The future raises CacheUnavailable, within the timeout, when there is no reply or the reply is an error.
        Cancelling it is harmless: its reply is read and dropped.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if not self._is_up:
            reply.set_exception(CacheUnavailable(self._problem))
            return reply
        self._queued.append(_pack(command))
        self._has_queued.set()
        self._asked.append((reply, loop.time() + self._timeout_s))
        if self._watch is None:
            self._watch = loop.call_later(self._timeout_s, self._check)
        return reply

    def _check(self) -> None:
        """The oldest command that has no reply decides. One timer for all of them, and none while nothing is asked."""
        self._watch = None
        if not self._asked:
            return
        loop = asyncio.get_running_loop()
        due = self._asked[0][1]
        if due > loop.time():
            self._watch = loop.call_at(due, self._check)
        else:
            self._end(f"no reply within {self._timeout_s:g} s")

    def _end(self, problem: str) -> None:
        """The connection is over, in this step: whoever waits for a reply has none."""
        self._is_up = False
        self._problem = problem
        asked, self._asked, self._queued = self._asked, deque(), []
        for reply, _ in asked:
            if not reply.done():
                reply.set_exception(CacheUnavailable(problem))
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def _supervise(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            connection = self._make_connection()
            problem = "closed"
            try:
                async with asyncio.timeout(self._timeout_s):
                    await connection.connect()
                delay_s = FIRST_DELAY_S
                self._is_up = True
                self._tried.set()
                await self._serve(connection)
                problem = self._problem
            except TimeoutError:
                problem = f"cannot connect within {self._timeout_s:g} s"
            except (RedisError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                log.exception("redis_link_failed")
            finally:
                self._end(problem)
                await connection.disconnect(nowait=True)
            self._tried.set()
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, MAX_DELAY_S)

    async def _serve(self, connection: Any) -> None:
        """Until the connection is lost, or given up."""
        self._lost = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(self._read(connection)), asyncio.create_task(self._write(connection))]
        try:
            await asyncio.wait({self._lost, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def _write(self, connection: Any) -> None:
        while True:
            await self._has_queued.wait()
            self._has_queued.clear()
            queued, self._queued = self._queued, []
            await connection.send_packed_command(b"".join(queued), check_health=False)

    async def _read(self, connection: Any) -> None:
        while True:
            problem: ResponseError | None = None
            try:
                value = await connection.read_response(disable_decoding=True)
            except ResponseError as error:  # the answer to one command; the connection is well
                problem = error
            if not self._is_up:  # given up while this reply was on its way
                return
            reply, _ = self._asked.popleft()
            if reply.done():
                continue
            if problem is None:
                reply.set_result(value)
            else:
                reply.set_exception(CacheUnavailable(f"{type(problem).__name__}: {problem}"))
