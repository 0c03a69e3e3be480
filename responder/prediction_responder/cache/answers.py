"""Answers by key, looked up in batches. Every kind of bad value is a gap."""

import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from prediction_responder.cache.generation import current_of
from prediction_responder.cache.port import Cache, CacheUnavailable
from prediction_responder.cache.value import (
    GENERATION_BYTES,
    CoolDown,
    Entry,
    LeaseMark,
    Outdated,
    Standing,
    Unreadable,
    Unshared,
    read,
)
from prediction_responder.messages import Key
from prediction_responder.observe.events import NOBODY, Observer, Oddity
from prediction_responder.observe.logs import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Gap:
    """No usable answer under a key.

    Args:
        generation: of the key's model, at the look-up; None when there is none yet.
        standing: what stands in the answer's place; no entry of this generation.
    """

    generation: bytes | None
    standing: LeaseMark | CoolDown | Unshared | Outdated | Unreadable | None = None

    @property
    def token(self) -> bytes:
        """The token of the mark in the answer's place; empty without one."""
        return self.standing.token if isinstance(self.standing, LeaseMark | Unshared) else b""

    @property
    def cools_until_ms(self) -> int | None:
        """When the model may be called again; None without a cool-down."""
        return self.standing.until_ms if isinstance(self.standing, CoolDown) else None


class CachedAnswers:
    """Reads answers and generations from a cache.

    What is asked of the cache gets numbers, in the order in which it is sent. A reply shows a state that is no older
    than the moment of sending; so of two questions, the one with the higher number is known to be new enough for
    whatever had arrived when the other one was sent, on whichever connection either goes.

    Args:
        cache: where the bytes are.
        observer: is told of values that cannot be used.
    """

    def __init__(self, cache: Cache, observer: Observer = NOBODY) -> None:
        self._cache = cache
        self._is_down = False
        self._observer = observer
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<CachedAnswers in {self._cache!r}{' down' if self._is_down else ''}>"

    def next_number(self) -> int:
        """The number of what is sent to the cache next."""
        return next(self._numbers)

    async def look_up(self, keys: Sequence[Key]) -> list[Entry | Gap] | None:
        """The entry of each key, or the gap in its place, in their order; None when the cache does not answer.

        Generations are asked for together with the values: a value of another generation than its model's is a gap.
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
        generations = dict(zip(models, map(current_of, values), strict=False))
        found: list[Entry | Gap] = []
        for key, value in zip(keys, values[len(models) :], strict=True):
            generation = generations[key.generation_name]
            if value is None or generation is None:
                found.append(Gap(generation))
            else:
                standing = read(key.digest, generation, value)
                found.append(standing if isinstance(standing, Entry) else self._gap(generation, standing))
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
        token = secrets.token_bytes(GENERATION_BYTES)
        return current_of(await self._cache.settle_generation(key.generation_name, token)) or token

    def note_outage(self, error: CacheUnavailable) -> None:
        """Log an outage once, not once for each request."""
        if not self._is_down:
            log.warning("cache_down", problem=str(error))
        self._is_down = True

    def _gap(self, generation: bytes, standing: Standing) -> Gap:
        assert not isinstance(standing, Entry)
        if isinstance(standing, Unreadable):  # what was only invalidated is no oddity
            self._observer.odd(Oddity.UNUSABLE_VALUE)
        return Gap(generation, standing)
