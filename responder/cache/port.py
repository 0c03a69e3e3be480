"""What the service asks of a cache. The behaviour is specified in tests/contract/test_cache.py."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self


class CacheUnavailable(Exception):
    """The cache cannot be used now. Nobody but the latency suffers: the service asks the model."""


class Cache(Protocol):
    """Values by name, each with a time to live."""

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """The values of these names, in this order; None where there is none or it has expired.

        Raises:
            CacheUnavailable: within the operation timeout.
        """

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        """Keep a value for `ttl_ms` milliseconds, which must be positive: nothing lives for ever.

        Raises:
            CacheUnavailable: within the operation timeout; the value may or may not be there.
        """

    async def __aenter__(self) -> Self:
        """Begin. Raises nothing when the cache cannot be reached: it goes on trying."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of connections."""
