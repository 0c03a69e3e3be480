"""Answers in a cache: entries looked up in batches and stored, with every kind of bad value a miss."""

import time
from collections.abc import Callable, Sequence

from responder.cache.entry import Entry, decode_entry, encode_entry
from responder.cache.port import Cache, CacheUnavailable
from responder.keys import Key
from responder.logs import logger

log = logger(__name__)


class CachedAnswers:
    """What the service knows of a cache.

    Args:
        cache: where the bytes are.
        clock_ms: wall clock, in milliseconds since the Unix epoch.
    """

    def __init__(self, cache: Cache, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._cache = cache
        self._is_down = False
        self.now_ms = clock_ms

    def __repr__(self) -> str:
        return f"<CachedAnswers in {self._cache!r}{' down' if self._is_down else ''}>"

    async def look_up(self, keys: Sequence[Key]) -> list[Entry | None] | None:
        """The entries of these keys, in their order; None when the cache does not answer."""
        if not keys:
            return []
        try:
            values = await self._cache.get_many([key.name for key in keys])
        except CacheUnavailable as error:
            self._went_down(error)
            return None
        if self._is_down:
            log.info("cache_back")
            self._is_down = False
        return [
            None if value is None else decode_entry(key.digest, value) for key, value in zip(keys, values, strict=True)
        ]

    async def store(self, key: Key, body: bytes, *, ttl_s: float, duration_ms: int) -> bool:
        """Keep an answer; False when it was not kept: no time to live, or no cache."""
        ttl_ms = round(ttl_s * 1000)
        if ttl_ms < 1:
            return False
        now_ms = self.now_ms()
        entry = Entry(now_ms, now_ms + ttl_ms, duration_ms, body)
        try:
            await self._cache.put(key.name, encode_entry(key.digest, entry), ttl_ms)
        except CacheUnavailable as error:
            self._went_down(error)
            return False
        return True

    def _went_down(self, error: CacheUnavailable) -> None:
        """Said once for each outage, not once for each request."""
        if not self._is_down:
            log.warning("cache_down", problem=str(error))
        self._is_down = True
