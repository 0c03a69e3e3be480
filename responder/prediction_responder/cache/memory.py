"""A cache in this process: to try the responder without Redis, and for tests."""

import asyncio
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from prediction_responder.cache.generation import Generation, read_generation
from prediction_responder.cache.keys import Part, beside_name, deaths_name
from prediction_responder.cache.port import (
    FAILURES_KEPT_MS,
    FENCED_MS,
    HANDED_OVER_MS,
    SEEN_BYTES,
    Claimed,
    Commit,
    Held,
    Inspected,
    Place,
    Slot,
    attempts_name,
    slot_name,
)
from prediction_responder.cache.push import HANDED_OVER, NOTHING, PUSH_MAX_BYTES, Push
from prediction_responder.cache.value import FENCE_BYTES, generation_of, is_entry, start_ids, token_of
from prediction_responder.clock import SYSTEM_CLOCK, Clock
from prediction_responder.messages import Key


class MemoryCache:
    """Keeps at most `max_bytes` of values and drops the least recently used.

    Args:
        max_bytes: bytes of values and their names.
        clock: its wall clock decides about TTLs, as that of a Redis server does.
    """

    def __init__(self, max_bytes: int = 64 * 2**20, clock: Clock = SYSTEM_CLOCK) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._waiting: dict[str, set[MemoryCache]] = {}
        self._deaths: dict[str, dict[bytes, int]] = {}
        self._planned: dict[str, float] = {}  # original expiry of the values that a lease prolongs
        self._on_push: Callable[[bytes], None] = lambda _push: None
        self._on_announcement: Callable[[bytes], None] = lambda _message: None
        self._listening: list[MemoryCache] = []
        self._shared = self

    def __repr__(self) -> str:
        return f"<MemoryCache {len(self._shared._values)} values, {self._shared._bytes} bytes>"

    def beside(self) -> "MemoryCache":
        """The same cache for another replica, with an inbox of its own."""
        other = MemoryCache()
        other._shared = self._shared
        return other

    @property
    def is_up(self) -> bool:
        return True

    @property
    def problem(self) -> None:
        return None

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return [self._shared._get(name) for name in names]

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        if ttl_ms <= 0:
            msg = f"ttl_ms must be positive, not {ttl_ms}"
            raise ValueError(msg)
        self._shared._set(name, value, ttl_ms)

    async def settle_generation(self, name: str, token: bytes) -> bytes:
        there = self._shared._get(name)
        if there is not None and read_generation(there) is not None:
            return there
        record = Generation(token, at_ms=self._shared._clock.now_ms()).encoded
        self._shared._set(name, record, math.inf)
        return record

    async def renew_generation(self, name: str, token: bytes) -> bool:
        there = self._shared._get(name)
        if there is None:
            return False
        before, now_ms = read_generation(there), self._shared._clock.now_ms()
        after = Generation(token, at_ms=now_ms) if before is None else before.followed_by(token, now_ms)
        self._shared._set(name, after.encoded, math.inf)
        return True

    async def generation_names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._shared._values if name.startswith(prefix))

    async def inspect(self, key: Key) -> Inspected:
        shared, places = self._shared, [Place(key.name, slot) for slot in Slot]
        value, refresh = (shared._get(slot_name(place)) for place in places)
        left_ms, refresh_left_ms = (shared._left_ms(slot_name(place)) for place in places)
        starts = tuple(one for place in places for one in start_ids(shared._get(attempts_name(place))))
        failures = shared._get(beside_name(key.name, Part.FAILURES)) or b""
        waiting = len(shared._waiting.get(key.name, ()))
        generation = shared._get(key.generation_name)
        return Inspected(generation, value, left_ms, refresh, refresh_left_ms, starts, failures, waiting)

    async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
        shared, slot = self._shared, slot_name(place)
        value = shared._get(place.name) or b""
        if place.slot is Slot.REFRESH and not value.startswith(seen):
            return Claimed(None, moved=True)
        found = shared._get(slot)
        left_ms = shared._left_ms(slot) if found is not None and place.slot is Slot.REFRESH else 0
        if found is None:
            shared._set(slot, mark, lease_ms)
            shared._prolong(place, lease_ms)
        parts = Part.FENCE, Part.FAILURES, Part.REFRESH
        names = attempts_name(place), *(beside_name(place.name, part) for part in parts)
        starts, fence, failures, refresh = map(shared._get, names)
        beside = refresh or b"" if place.slot is Slot.VALUE else b""
        return Claimed(found, start_ids(starts), fence or b"", failures or b"", beside, left_ms=left_ms)

    async def take_over(self, place: Place, seen: bytes, mark: bytes, lease_ms: int) -> bool:
        found = self._shared._get(slot_name(place))
        if found is None or found[:SEEN_BYTES] != seen[:SEEN_BYTES]:
            return False
        self._shared._set(slot_name(place), mark, lease_ms)
        self._shared._prolong(place, lease_ms)
        return True

    async def register(self, place: Place, mark: bytes, keep_ms: int) -> int | None:
        shared, slot = self._shared, slot_name(place)
        if shared._get(slot) != mark:
            return None
        shared._waiting.setdefault(place.name, set()).add(self)
        return shared._left_ms(slot)

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[bool]:
        stands = []
        for place, mark, fence in held:
            found = self._shared._get(slot_name(place))
            stands.append(found in (None, mark) and self._is_fenced_by(place, fence))
            if stands[-1]:
                self._shared._set(slot_name(place), mark, lease_ms)
                self._shared._prolong(place, lease_ms)
        return stands

    async def commit(self, commit: Commit) -> bool:
        shared, (place, mark, fence) = self._shared, commit.held
        found = shared._get(slot_name(place))
        if commit.clear_attempts:
            shared._drop(attempts_name(place))
        if found != mark and (found is not None or place.slot is Slot.REFRESH):
            return False
        if not self._is_fenced_by(place, fence):
            return False
        there = shared._get(place.name)
        is_outdated = place.slot is Slot.REFRESH and there is not None and generation_of(there) != generation_of(mark)
        stores = commit.ttl_ms > 0 and not is_outdated
        shared._drop(slot_name(place))
        if commit.failures is not None:
            shared._set(beside_name(place.name, Part.FAILURES), commit.failures, FAILURES_KEPT_MS)
        if stores:
            shared._set(place.name, commit.value, commit.ttl_ms)
        else:
            shared._restore_expiry(place.name)
        if commit.mark:
            shared._set(slot_name(place), commit.mark, commit.mark_ms)
        push = Push(commit.kind, commit.digest, token_of(mark), commit.value)
        if len(commit.value) > PUSH_MAX_BYTES:
            push = push._replace(kind=NOTHING if stores else HANDED_OVER, content=b"")
            if not stores and place.name in shared._waiting:
                shared._set(beside_name(place.name, Part.HANDED_OVER), commit.value, HANDED_OVER_MS)
        loop = asyncio.get_running_loop()
        for replica in shared._waiting.pop(place.name, ()):
            loop.call_soon(replica._on_push, push.encoded)
        return not is_outdated

    async def fence(self, name: str) -> bool:
        shared = self._shared
        shared._set(beside_name(name, Part.FENCE), secrets.token_bytes(FENCE_BYTES), FENCED_MS)
        before = shared._get(name)
        for slot in Slot:
            shared._drop(slot_name(Place(name, slot)))
            shared._drop(attempts_name(Place(name, slot)))
        for part in (Part.FAILURES, Part.HANDED_OVER):
            shared._drop(beside_name(name, part))
        return before is not None and is_entry(before)

    def write_starts(self, place: Place, starts: Sequence[bytes], keep_ms: int) -> None:
        self._shared._set(attempts_name(place), b"".join(starts), keep_ms)

    def write_deaths(self, name: str, starts: Sequence[bytes], at_ms: int) -> None:
        self._shared._deaths.setdefault(deaths_name(name), {}).update(dict.fromkeys(starts, at_ms))

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        deaths = self._shared._deaths.get(deaths_name(name), {})
        return {one for one, at_ms in deaths.items() if at_ms >= since_ms}

    def _is_fenced_by(self, place: Place, fence: bytes) -> bool:
        return (self._shared._get(beside_name(place.name, Part.FENCE)) or b"") == fence

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        self._on_push = on_push

    def announce(self, message: bytes) -> "asyncio.Future[int]":
        loop = asyncio.get_running_loop()
        for replica in self._shared._listening:
            loop.call_soon(replica._on_announcement, message)
        counted: asyncio.Future[int] = loop.create_future()
        counted.set_result(len(self._shared._listening))
        return counted

    def on_announcement(self, on_message: Callable[[bytes], None]) -> None:
        self._on_announcement = on_message
        if self not in self._shared._listening:
            self._shared._listening.append(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shared is self:
            self._values.clear()
            self._planned.clear()
            self._bytes = 0

    def _get(self, name: str) -> bytes | None:
        kept = self._values.get(name)
        if kept is None:
            return None
        value, expires_at = kept
        if self._now_s() >= expires_at:
            self._drop(name)
            return None
        self._values.move_to_end(name)
        return value

    def _set(self, name: str, value: bytes, ttl_ms: float) -> None:
        self._drop(name)
        self._values[name] = value, self._now_s() + ttl_ms / 1000
        self._bytes += len(name) + len(value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    def _left_ms(self, name: str) -> int:
        """The remaining TTL; 0 for what is not there."""
        kept = self._values.get(name)
        return 0 if kept is None else max(0, round((kept[1] - self._now_s()) * 1000))

    def _now_s(self) -> float:
        return self._clock.now_ms() / 1000

    def _prolong(self, place: Place, lease_ms: int) -> None:
        """Keep a value while a lease stands beside it."""
        kept = self._values.get(place.name)
        if place.slot is Slot.VALUE or kept is None or not is_entry(kept[0]):
            return
        if self._left_ms(place.name) < lease_ms:
            self._planned.setdefault(place.name, kept[1])
            self._values[place.name] = kept[0], self._now_s() + lease_ms / 1000

    def _restore_expiry(self, name: str) -> None:
        """Give a value that a lease prolonged, and that was not replaced, its original expiry."""
        kept, planned = self._values.get(name), self._planned.pop(name, None)
        if kept is not None and planned is not None:
            self._values[name] = kept[0], planned

    def _drop(self, name: str) -> None:
        kept = self._values.pop(name, None)
        self._planned.pop(name, None)
        if kept is not None:
            self._bytes -= len(name) + len(kept[0])
