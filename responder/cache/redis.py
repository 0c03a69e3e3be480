"""The cache in Redis; the only file here that knows redis-py."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from responder.cache.port import CacheUnavailable


class InvalidCacheUrl(ValueError):
    """REDIS_URL has an option that redis-py does not know; the message names it and shows no value."""


class RedisCache:
    """Values in Redis, read with one MGET for many.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        timeout_s: how long one operation may take, connecting included. There are no retries: redis-py's defaults
            keep a request waiting for a minute on a server that does not answer.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._client: redis.Redis = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            max_connections=256,
        )
        try:
            make_connection: Callable[[], object] = self._client.connection_pool.make_connection
            make_connection()  # connects nothing, but refuses options that nobody knows
        except (TypeError, ValueError) as error:
            msg = f"REDIS_URL: {error}"
            raise InvalidCacheUrl(msg) from error

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        if not names:
            return []
        with _translated():
            values = await self._client.mget(names)
        return [value if isinstance(value, bytes) else None for value in values]

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        if ttl_ms <= 0:
            msg = f"ttl_ms must be positive, not {ttl_ms}"
            raise ValueError(msg)
        with _translated():
            await self._client.set(name, value, px=ttl_ms)

    async def close(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """The wall: whatever redis-py raises becomes CacheUnavailable."""
    try:
        yield
    except Exception as error:
        msg = f"{type(error).__name__}: {error}"
        raise CacheUnavailable(msg) from error
