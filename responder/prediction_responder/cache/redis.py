"""The cache and the leases in Redis."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from prediction_responder.cache import redis_scripts as scripts
from prediction_responder.cache.keys import Part, beside_name, deaths_name
from prediction_responder.cache.port import (
    DEATHS_KEPT_MS,
    FENCED_MS,
    SEEN_BYTES,
    CacheRefused,
    Claimed,
    Commit,
    Held,
    Inspected,
    Place,
    Slot,
    attempts_name,
    slot_name,
)
from prediction_responder.cache.redis_link import RedisLink
from prediction_responder.cache.redis_pipeline import Subscription
from prediction_responder.cache.redis_scripts import Script
from prediction_responder.cache.value import FENCE_BYTES, is_entry, start_ids
from prediction_responder.messages import Key
from prediction_responder.observe.logs import logger

log = logger(__name__)

NAMES_AT_ONCE = 128  # a longer MGET would block the other clients of Redis


class UnsuitableCache(Exception):
    """The settings of Redis make it evict leases first; the message says what to change."""


class RedisCache:
    """Values and leases in Redis. One MGET reads many values.

    Commands share one connection, on which they keep their order. Pushes arrive on another one.

    Args:
        url, timeout_s: see `RedisLink`. There are no retries: with redis-py's defaults a request would wait for a
            minute on a server that does not answer.
        inbox: the channel of this replica alone, on which commits push the results that it waits for.
        control: the channel of announcements, which all replicas of a deployment listen to.
    """

    def __init__(self, url: str, *, timeout_s: float, inbox: str | None = None, control: str | None = None) -> None:
        self._link = RedisLink(url, timeout_s=timeout_s, prepare=[("SCRIPT", "LOAD", one.text) for one in scripts.ALL])
        self._inbox, self._control = inbox or "", control or ""
        self._on_push: Callable[[bytes], None] = lambda _push: None
        self._on_gap: Callable[[], None] = lambda: None
        self._on_announcement: Callable[[bytes], None] = lambda _message: None
        channels: dict[bytes, Callable[[bytes], None]] = {}
        if inbox:
            channels[inbox.encode()] = lambda push: self._on_push(push)
        if control:
            channels[control.encode()] = lambda message: self._on_announcement(message)
        subscription = Subscription(channels, lambda: self._on_gap())
        self._inbox_link = RedisLink(url, timeout_s=timeout_s, subscription=subscription) if channels else None
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<RedisCache {self._link!r}>"

    @property
    def is_up(self) -> bool:
        """Whether Redis answers; while False every command raises CacheUnavailable at once."""
        return self._link.is_up

    @property
    def problem(self) -> str | None:
        if self._link.problem is not None:
            return f"{self._link.problem}; answers are correct but not cached"
        if self._inbox_link is not None and self._inbox_link.problem is not None:
            return f"pushes: {self._inbox_link.problem}; followers poll once a second instead"
        return None

    async def __aenter__(self) -> Self:
        async with self._stack:
            await self._stack.enter_async_context(self._link)
            if self._inbox_link is not None:
                await self._stack.enter_async_context(self._inbox_link)
            if self._link.is_up:
                await self._check_eviction()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        if 0 < len(names) <= NAMES_AT_ONCE:
            values = await self._link.ask("MGET", *names)
        else:
            starts = range(0, len(names), NAMES_AT_ONCE)
            asked = [self._link.ask("MGET", *names[start : start + NAMES_AT_ONCE]) for start in starts]
            values = [value for part in asked for value in await part]
        return values  # type: ignore[no-any-return] # MGET replies with bytes and None only

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        if ttl_ms <= 0:
            msg = f"ttl_ms must be positive, not {ttl_ms}"
            raise ValueError(msg)
        await self._link.ask("SET", name, value, "PX", ttl_ms)

    async def settle_generation(self, name: str, token: bytes) -> bytes:
        record: bytes = await self._run(scripts.SETTLE_GENERATION, [name], token)
        return record

    async def renew_generation(self, name: str, token: bytes) -> bool:
        return bool(await self._run(scripts.RENEW_GENERATION, [name], token))

    async def generation_names(self, prefix: str) -> list[str]:
        pattern, cursor, found = f"{_literal(prefix)}*", b"0", set()
        while True:
            cursor, names = await self._link.ask("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            found |= {name.decode() for name in names}
            if cursor == b"0":
                return sorted(found)

    async def inspect(self, key: Key) -> Inspected:
        places = [Place(key.name, slot) for slot in Slot]
        refresh_name, failures_name = beside_name(key.name, Part.REFRESH), beside_name(key.name, Part.FAILURES)
        names = [key.name, refresh_name, failures_name, *map(attempts_name, places)]
        asked = [
            self._link.ask("GET", key.generation_name),
            self._link.ask("MGET", *names),
            self._link.ask("PTTL", key.name),
            self._link.ask("PTTL", refresh_name),
            self._link.ask("SCARD", beside_name(key.name, Part.INBOXES)),
        ]
        generation, (value, refresh, failures, *starts), left_ms, refresh_left_ms, waiting = [
            await one for one in asked
        ]
        ids = tuple(one for record in starts for one in start_ids(record))
        left = max(0, left_ms), max(0, refresh_left_ms)
        return Inspected(generation, value, left[0], refresh, left[1], ids, failures or b"", waiting)

    async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
        slot, left_ms = slot_name(place), 0
        claimed: Awaitable[Any]
        if place.slot is Slot.VALUE:
            claimed = self._link.ask("SET", slot, mark, "NX", "GET", "PX", lease_ms)
        else:
            claimed = self._run(scripts.CLAIM_BESIDE, [slot, place.name], mark, lease_ms, seen)
        # Sent after the claim: if it reads the fence of a later invalidation, the model is called after that.
        parts = Part.FENCE, Part.FAILURES, Part.REFRESH
        beside = self._link.ask("MGET", attempts_name(place), *(beside_name(place.name, part) for part in parts))
        try:
            found = await claimed
        except CacheRefused:  # out of memory, read-only, too few replicas: reads still work
            found = await self._link.ask("GET", slot)
            if found is None:
                raise
        if isinstance(found, list):
            found, left_ms = found or (None, 0)
        starts, fence, failures, refresh = await beside
        return Claimed(
            found,
            start_ids(starts),
            fence or b"",
            failures or b"",
            refresh or b"" if place.slot is Slot.VALUE else b"",
            moved=left_ms == -1,
            left_ms=max(0, left_ms),
        )

    async def take_over(self, place: Place, seen: bytes, mark: bytes, lease_ms: int) -> bool:
        return bool(
            await self._run(scripts.TAKE_OVER, [slot_name(place), place.name], seen[:SEEN_BYTES], mark, lease_ms)
        )

    async def register(self, place: Place, mark: bytes, keep_ms: int) -> int | None:
        keys = [slot_name(place), beside_name(place.name, Part.INBOXES)]
        left_ms: int = await self._run(scripts.REGISTER, keys, mark, self._inbox, keep_ms)
        return None if left_ms < 0 else left_ms

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[bool]:
        asked = [
            self._evalsha(
                scripts.RENEW,
                [slot_name(place), beside_name(place.name, Part.FENCE), place.name],
                mark,
                fence,
                lease_ms,
            )
            for place, mark, fence in held
        ]
        done = await asyncio.gather(*asked, return_exceptions=True)
        for one in done:
            if isinstance(one, BaseException):
                # Repeating it here could restore a lease that has ended since. The next renewal comes soon.
                await self._link.ask("SCRIPT", "LOAD", scripts.RENEW.text)
                raise one
        return [bool(one) for one in done]

    async def commit(self, commit: Commit) -> bool:
        place, mark, fence = commit.held
        beside = [beside_name(place.name, part) for part in (Part.REFRESH, Part.INBOXES, Part.FENCE)]
        after = [beside_name(place.name, part) for part in (Part.FAILURES, Part.HANDED_OVER)]
        done: int = await self._run(
            scripts.COMMIT,
            [place.name, *beside, attempts_name(place), *after],
            place.slot.value,
            mark,
            commit.value,
            commit.ttl_ms,
            commit.kind,
            commit.digest,
            int(commit.clear_attempts),
            fence,
            commit.mark,
            commit.mark_ms,
            "" if commit.failures is None else commit.failures or "0",
        )
        if done == 2:
            raise CacheRefused("OOM: pushed to the followers, but not stored")
        return bool(done)

    async def fence(self, name: str) -> bool:
        fence = secrets.token_bytes(FENCE_BYTES)
        places, dropped = [Place(name, slot) for slot in Slot], (Part.REFRESH, Part.FAILURES, Part.HANDED_OVER)
        asked = [
            self._link.ask("SET", beside_name(name, Part.FENCE), fence, "PX", FENCED_MS),  # first: fences older leases
            self._link.ask("GETDEL", name),
            self._link.ask("DEL", *(beside_name(name, part) for part in dropped), *map(attempts_name, places)),
        ]
        _, before, _ = [await one for one in asked]
        return before is not None and is_entry(before)

    def write_starts(self, place: Place, starts: Sequence[bytes], keep_ms: int) -> None:
        # If this process dies now, the command still arrives: it is written to the socket already.
        self._link.tell("SET", attempts_name(place), b"".join(starts), "PX", keep_ms)

    def write_deaths(self, name: str, starts: Sequence[bytes], at_ms: int) -> None:
        deaths = deaths_name(name)
        self._link.tell("ZADD", deaths, *(item for one in starts for item in (at_ms, one)))
        self._link.tell("PEXPIRE", deaths, DEATHS_KEPT_MS)

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        deaths = deaths_name(name)
        self._link.tell("ZREMRANGEBYSCORE", deaths, "-inf", f"({since_ms}")
        return set(await self._link.ask("ZRANGEBYSCORE", deaths, since_ms, "+inf"))

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        self._on_push, self._on_gap = on_push, on_gap

    def announce(self, message: bytes) -> Awaitable[int]:
        if self._inbox_link is None or not self._inbox_link.is_up:
            return RedisLink.refusal("announcements are not heard now")
        return self._link.ask("PUBLISH", self._control, message)

    def on_announcement(self, on_message: Callable[[bytes], None]) -> None:
        self._on_announcement = on_message

    def _run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Awaitable[Any]:
        """Send a script now; the result awaits its reply."""
        return self._or_eval(self._evalsha(script, keys, *arguments), script, keys, *arguments)

    def _evalsha(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Awaitable[Any]:
        return self._link.ask("EVALSHA", script.sha, len(keys), *keys, *arguments)

    async def _or_eval(
        self, asked: Awaitable[Any], script: Script, keys: Sequence[str], *arguments: str | bytes | int
    ) -> Any:
        """The reply. A Redis that has lost the script (a restart, SCRIPT FLUSH) gets its text."""
        try:
            return await asked
        except CacheRefused as error:
            if error.code != "NOSCRIPT":
                raise
        return await self._link.ask("EVAL", script.text, len(keys), *keys, *arguments)

    async def _check_eviction(self) -> None:
        try:
            info: bytes = await self._link.ask("INFO", "memory")
        except CacheRefused:  # no permission for INFO
            return
        if b"maxmemory_policy:volatile-ttl" in info:
            msg = "Redis evicts leases first (maxmemory-policy volatile-ttl: what expires soonest). Set allkeys-lru"
            raise UnsuitableCache(msg)


def _literal(text: str) -> str:
    """A pattern that matches this text only; see KEYS in the Redis documentation."""
    return "".join(f"\\{one}" if one in "*?[]^\\" else one for one in text)
