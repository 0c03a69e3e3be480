"""The cache in Redis."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from responder.cache.link import RedisLink

NAMES_AT_ONCE = 128  # a longer MGET would keep Redis from its other clients


class RedisCache:
    """Values in Redis, read with one MGET for many.

    Args:
        url, timeout_s: see `RedisLink`. There are no retries: redis-py's defaults keep a request waiting for a minute
            on a server that does not answer.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self._link = RedisLink(url, timeout_s=timeout_s)

    def __repr__(self) -> str:
        return f"<RedisCache {self._link!r}>"

    @property
    def is_up(self) -> bool:
        """Whether Redis answers; while False everything is CacheUnavailable at once."""
        return self._link.is_up

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.__aexit__(kind, error, trace)

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        if not names:
            return []
        if len(names) <= NAMES_AT_ONCE:
            values = await self._link.ask("MGET", *names)
        else:
            starts = range(0, len(names), NAMES_AT_ONCE)
            asked = [self._link.ask("MGET", *names[start : start + NAMES_AT_ONCE]) for start in starts]
            values = [value for part in asked for value in await part]
        return [value if isinstance(value, bytes) else None for value in values]

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        if ttl_ms <= 0:
            msg = f"ttl_ms must be positive, not {ttl_ms}"
            raise ValueError(msg)
        await self._link.ask("SET", name, value, "PX", ttl_ms)
