"""A lease store around another one, from which tests make stores that fail, wait or take notes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar

from prediction_responder.cache import Claimed, Commit, Held, Inspected, LeaseStore, Place
from prediction_responder.messages import Key

T = TypeVar("T")


class Through:
    """Passes everything through; a subclass changes `_over`, through which every question goes, or single steps."""

    def __init__(self, inner: LeaseStore) -> None:
        self.inner = inner

    async def _over(self, work: Callable[[], Awaitable[T]]) -> T:
        return await work()

    @property
    def is_up(self) -> bool:
        return self.inner.is_up

    @property
    def problem(self) -> str | None:
        return self.inner.problem

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return await self._over(lambda: self.inner.get_many(names))

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        await self._over(lambda: self.inner.put(name, value, ttl_ms))

    async def settle_generation(self, name: str, token: bytes) -> bytes:
        return await self._over(lambda: self.inner.settle_generation(name, token))

    async def renew_generation(self, name: str, token: bytes) -> bool:
        return await self._over(lambda: self.inner.renew_generation(name, token))

    async def generation_names(self, prefix: str) -> list[str]:
        return await self._over(lambda: self.inner.generation_names(prefix))

    async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
        return await self._over(lambda: self.inner.claim(place, mark, lease_ms, seen))

    async def take_over(self, place: Place, seen: bytes, mark: bytes, lease_ms: int) -> bool:
        return await self._over(lambda: self.inner.take_over(place, seen, mark, lease_ms))

    async def register(self, place: Place, mark: bytes, keep_ms: int) -> int | None:
        return await self._over(lambda: self.inner.register(place, mark, keep_ms))

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[bool]:
        return await self._over(lambda: self.inner.renew(held, lease_ms))

    async def commit(self, commit: Commit) -> bool:
        return await self._over(lambda: self.inner.commit(commit))

    async def fence(self, name: str) -> bool:
        return await self._over(lambda: self.inner.fence(name))

    async def inspect(self, key: Key) -> Inspected:
        return await self._over(lambda: self.inner.inspect(key))

    def write_starts(self, place: Place, starts: Sequence[bytes], keep_ms: int) -> None:
        self.inner.write_starts(place, starts, keep_ms)

    def write_deaths(self, name: str, starts: Sequence[bytes], at_ms: int) -> None:
        self.inner.write_deaths(name, starts, at_ms)

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        return await self._over(lambda: self.inner.deaths(name, since_ms))

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        self.inner.listen(on_push, on_gap)

    def announce(self, message: bytes) -> Awaitable[int]:
        return self.inner.announce(message)

    def on_announcement(self, on_message: Callable[[bytes], None]) -> None:
        self.inner.on_announcement(on_message)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The inner store is somebody else's."""


class Connection:
    """Carries questions to a store and replies back, each way in order; a test can hold either way."""

    def __init__(self) -> None:
        self.there, self.back = asyncio.Event(), asyncio.Event()
        self.there.set()
        self.back.set()
        self._there, self._back = asyncio.Lock(), asyncio.Lock()

    async def carry(self, work: Callable[[], Awaitable[T]]) -> T:
        """Ask, and wait for the reply."""
        async with self._there:
            await self.there.wait()
            done = await work()
            back = self._back.acquire()  # in the order of the questions
            await asyncio.shield(back)
        try:
            await self.back.wait()
            return done
        finally:
            self._back.release()


class TwoConnections(Through):
    """A store behind two connections, as a pool or a cluster has them: look-ups go over one, steps over the other.

    Between the two no order is kept.
    """

    def __init__(self, inner: LeaseStore) -> None:
        super().__init__(inner)
        self.look_ups, self.steps = Connection(), Connection()

    async def _over(self, work: Callable[[], Awaitable[T]]) -> T:
        return await self.steps.carry(work)

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        return await self.look_ups.carry(lambda: self.inner.get_many(names))


_stores: tuple[type[LeaseStore], ...] = (Through,)  # mypy proves it honest
