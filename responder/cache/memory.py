"""A cache in this process: for a first look without Redis, and for tests."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self


class MemoryCache:
    """Keeps at most `max_bytes` of values and drops the one that was used least recently.

    Args:
        max_bytes: the values' bytes, names included.
        clock: seconds that only go forward.
    """

    def __init__(self, max_bytes: int = 64 * 2**20, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<MemoryCache {len(self._values)} values, {self._bytes} bytes>"

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return [self._get(name) for name in names]

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        if ttl_ms <= 0:
            msg = f"ttl_ms must be positive, not {ttl_ms}"
            raise ValueError(msg)
        self._drop(name)
        self._values[name] = value, self._clock() + ttl_ms / 1000
        self._bytes += len(name) + len(value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._values)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.clear()
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

    def _drop(self, name: str) -> None:
        kept = self._values.pop(name, None)
        if kept is not None:
            self._bytes -= len(name) + len(kept[0])
