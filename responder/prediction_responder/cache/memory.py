"""A cache in this process: to try the responder without Redis, and for tests."""

import asyncio
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from prediction_responder.cache.keys import beside_name, deaths_name
from prediction_responder.cache.port import (
    FAILURES_KEPT_MS,
    FENCED_MS,
    HANDED_OVER_MS,
    PUSH_MAX_BYTES,
    SEEN_BYTES,
    Claimed,
    Commit,
    Held,
    Place,
    Slot,
    attempts_name,
    ids_in,
    slot_name,
)
from prediction_responder.cache.value import FENCE_BYTES, generation_of, is_entry, token_of


class MemoryCache:
    """Keeps at most `max_bytes` of values and drops the least recently used.

    Args:
        max_bytes: bytes of values and their names.
        clock: monotonic, in seconds.
    """

    def __init__(self, max_bytes: int = 64 * 2**20, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._waiting: dict[str, set[MemoryCache]] = {}
        self._deaths: dict[str, dict[bytes, int]] = {}
        self._planned: dict[str, float] = {}  # original expiry of the values that a lease prolongs
        self._on_push: Callable[[bytes], None] = lambda _push: None
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

    async def settle_on(self, name: str, proposal: bytes) -> bytes:
        there = self._shared._get(name)
        if there is None:
            self._shared._set(name, proposal, math.inf)
        return proposal if there is None else there

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
        names = attempts_name(place), *(beside_name(place.name, suffix) for suffix in "xfr")
        starts, fence, failures, refresh = map(shared._get, names)
        beside = refresh or b"" if place.slot is Slot.VALUE else b""
        return Claimed(found, ids_in(starts), fence or b"", failures or b"", beside, left_ms=left_ms)

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
            shared._set(beside_name(place.name, "f"), commit.failures, FAILURES_KEPT_MS)
        if stores:
            shared._set(place.name, commit.value, commit.ttl_ms)
        else:
            shared._restore_expiry(place.name)
        if commit.mark:
            shared._set(slot_name(place), commit.mark, commit.mark_ms)
        head = commit.digest + token_of(mark)
        push = commit.kind + head + commit.value
        if len(commit.value) > PUSH_MAX_BYTES:
            push = (b"P" if stores else b"H") + head
            if not stores and place.name in shared._waiting:
                shared._set(beside_name(place.name, "h"), commit.value, HANDED_OVER_MS)
        loop = asyncio.get_running_loop()
        for replica in shared._waiting.pop(place.name, ()):
            loop.call_soon(replica._on_push, push)
        return not is_outdated

    async def fence(self, name: str) -> bool:
        shared = self._shared
        shared._set(beside_name(name, "x"), secrets.token_bytes(FENCE_BYTES), FENCED_MS)
        before = shared._get(name)
        for slot in Slot:
            shared._drop(slot_name(Place(name, slot)))
            shared._drop(attempts_name(Place(name, slot)))
        for suffix in "fh":
            shared._drop(beside_name(name, suffix))
        return before is not None and is_entry(before)

    def write_starts(self, place: Place, replicas: Sequence[bytes], keep_ms: int) -> None:
        self._shared._set(attempts_name(place), b"".join(replicas), keep_ms)

    def write_deaths(self, name: str, replicas: Sequence[bytes], at_ms: int) -> None:
        self._shared._deaths.setdefault(deaths_name(name), {}).update(dict.fromkeys(replicas, at_ms))

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        deaths = self._shared._deaths.get(deaths_name(name), {})
        return {replica for replica, at_ms in deaths.items() if at_ms >= since_ms}

    def _is_fenced_by(self, place: Place, fence: bytes) -> bool:
        return (self._shared._get(beside_name(place.name, "x")) or b"") == fence

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        self._on_push = on_push

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
        if self._clock() >= expires_at:
            self._drop(name)
            return None
        self._values.move_to_end(name)
        return value

    def _set(self, name: str, value: bytes, ttl_ms: float) -> None:
        self._drop(name)
        self._values[name] = value, self._clock() + ttl_ms / 1000
        self._bytes += len(name) + len(value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    def _left_ms(self, name: str) -> int:
        return max(0, round((self._values[name][1] - self._clock()) * 1000))

    def _prolong(self, place: Place, lease_ms: int) -> None:
        """Keep a value while a lease stands beside it."""
        kept = self._values.get(place.name)
        if place.slot is Slot.VALUE or kept is None or not is_entry(kept[0]):
            return
        if self._left_ms(place.name) < lease_ms:
            self._planned.setdefault(place.name, kept[1])
            self._values[place.name] = kept[0], self._clock() + lease_ms / 1000

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
