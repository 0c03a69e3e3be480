"""Answers by key, looked up in batches. Every kind of bad value is a gap."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prediction_responder.cache.port import Cache, CacheUnavailable
from prediction_responder.cache.value import (
    GENERATION_BYTES,
    Entry,
    cools_until_ms,
    decode_entry,
    generation_of,
    is_cool_down,
    is_lease,
    is_unshared,
    token_of,
)
from prediction_responder.messages import Key
from prediction_responder.observe.logs import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Gap:
    """No usable answer under a key.

    Args:
        generation: of the key's model, at the look-up; None when there is none yet.
        token: of the mark in the answer's place; empty without one.
        cools_until_ms: when the model may be called again; None without a cool-down.
    """

    generation: bytes | None
    token: bytes = b""
    cools_until_ms: int | None = None


class CachedAnswers:
    """Reads answers and generations from a cache.

    Args:
        cache: where the bytes are.
        clock_ms: wall clock, in milliseconds since the Unix epoch.
        count: called with the kind of an oddity.
    """

    def __init__(
        self,
        cache: Cache,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        count: Callable[[str], None] = lambda _kind: None,
    ) -> None:
        self._cache = cache
        self._is_down = False
        self._count = count
        self.now_ms = clock_ms

    def __repr__(self) -> str:
        return f"<CachedAnswers in {self._cache!r}{' down' if self._is_down else ''}>"

    async def look_up(self, keys: Sequence[Key]) -> list[Entry | Gap] | None:
        """The entry of each key, or the gap in its place, in their order; None when the cache does not answer.

        Generations are read in the same step as values: a value of another generation than its model's is a gap.
        """
        if not keys:
            return []
        models = list({key.generation_name for key in keys})
        try:
            values = await self._cache.get_many([*models, *[key.name for key in keys]])
        except CacheUnavailable as error:
            self.note_outage(error)
            return None
        if self._is_down:
            log.info("cache_back")
            self._is_down = False
        generations = dict(zip(models, values, strict=False))
        found: list[Entry | Gap] = []
        for key, value in zip(keys, values[len(models) :], strict=True):
            generation = generations[key.generation_name]
            if value is None or generation is None:
                found.append(Gap(generation))
            else:
                entry = decode_entry(key.digest, generation, value)
                found.append(self._gap(key, generation, value) if entry is None else entry)
        return found

    async def entry(self, key: Key) -> Entry | None:
        """The entry of one key, fresh or not."""
        found = await self.look_up([key])
        return found[0] if found and isinstance(found[0], Entry) else None

    async def generation(self, key: Key) -> bytes:
        """The generation of a key's model. If it has none, it gets a new one, so that no older answer comes back.

        Raises:
            CacheUnavailable: within the operation timeout.
        """
        return await self._cache.settle_on(key.generation_name, secrets.token_bytes(GENERATION_BYTES))

    def note_outage(self, error: CacheUnavailable) -> None:
        """Log an outage once, not once for each request."""
        if not self._is_down:
            log.warning("cache_down", problem=str(error))
        self._is_down = True

    def _gap(self, key: Key, generation: bytes, value: bytes) -> Gap:
        if is_lease(value) or is_unshared(value):
            return Gap(generation, token_of(value))
        until_ms = cools_until_ms(generation, value)
        if not is_cool_down(value) and decode_entry(key.digest, generation_of(value), value) is None:
            self._count("unusable_value")  # a value that was only invalidated does not count
        return Gap(generation, cools_until_ms=until_ms)
