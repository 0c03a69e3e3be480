"""Working stand-ins: small, honest, and type-checked against the interfaces whose place they take."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from prediction_responder import predictor
from prediction_responder.cache import CachedAnswers, CacheUnavailable, Claimed, Commit, Held, LeaseStore, Place
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.execution.served import ServedModel
from prediction_responder.flight.leader import Leader
from prediction_responder.flight.lease import Leases
from prediction_responder.messages import Reply, Request
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.service import Service
from prediction_schemas import NO_DIRECTIVES, Directives


class Question(BaseModel):
    """An input."""

    text: str
    weight: float = 1.0


class Echo(BaseModel):
    """An output."""

    text: str


class Clock:
    """A clock that the test holds, in seconds."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def ms(self) -> int:
        """The same as a wall clock in milliseconds."""
        return round(self.now * 1000)


class GatedModel:
    """A model that answers when the test opens the gate, and counts its calls."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.gate = asyncio.Event()
        self.calls: list[str] = []
        self.running = 0
        self.begun = asyncio.Event()
        if is_open:
            self.gate.set()

    async def __call__(self, question: Question) -> Any:
        """Answer with the question's own text."""
        self.calls.append(question.text)
        self.running += 1
        self.begun.set()
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return Echo(text=question.text)

    def predictor(self, **options: Any) -> AnyPredictor:
        """It, decorated."""

        async def echo(question: Question) -> Echo:
            answer: Echo = await self(question)
            return answer

        return predictor(**{"name": "echo", "ttl_s": 60, **options})(echo)


class BrokenCache:
    """A cache that is down whenever the test says so."""

    def __init__(self, inner: MemoryCache | None = None) -> None:
        self.is_down = False
        self.forgets_deaths = False
        self.asked = 0
        self._inner = inner or MemoryCache()

    @property
    def is_up(self) -> bool:
        """What its switch says."""
        return not self.is_down

    @property
    def problem(self) -> str | None:
        """What its switch says."""
        return "down" if self.is_down else None

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """As the inner cache, or not at all."""
        self.asked += 1
        self._check()
        return await self._inner.get_many(names)

    async def put(self, name: str, value: bytes, ttl_ms: int) -> None:
        """As the inner cache, or not at all."""
        self._check()
        await self._inner.put(name, value, ttl_ms)

    async def settle_on(self, name: str, proposal: bytes) -> bytes:
        """As the inner cache, or not at all."""
        self._check()
        return await self._inner.settle_on(name, proposal)

    async def claim(self, place: Place, mark: bytes, lease_ms: int, seen: bytes = b"") -> Claimed:
        """As the inner cache, or not at all."""
        self._check()
        return await self._inner.claim(place, mark, lease_ms, seen)

    async def take_over(self, place: Place, seen: bytes, mark: bytes, lease_ms: int) -> bool:
        """As the inner cache, or not at all."""
        self._check()
        return await self._inner.take_over(place, seen, mark, lease_ms)

    async def register(self, place: Place, mark: bytes, keep_ms: int) -> int | None:
        """As the inner cache, or not at all."""
        self._check()
        return await self._inner.register(place, mark, keep_ms)

    async def renew(self, held: Sequence[Held], lease_ms: int) -> list[bool]:
        """As the inner cache, or not at all."""
        self._check()
        return await self._inner.renew(held, lease_ms)

    async def commit(self, commit: Commit) -> bool:
        """As the inner cache, or not at all."""
        self._check()
        return await self._inner.commit(commit)

    async def fence(self, name: str) -> bool:
        """As the inner cache, or not at all."""
        self._check()
        return await self._inner.fence(name)

    def write_starts(self, place: Place, replicas: Sequence[bytes], keep_ms: int) -> None:
        """As the inner cache, or not at all."""
        if not self.is_down:
            self._inner.write_starts(place, replicas, keep_ms)

    def write_deaths(self, name: str, replicas: Sequence[bytes], at_ms: int) -> None:
        """As the inner cache, or not at all."""
        if not self.is_down:
            self._inner.write_deaths(name, replicas, at_ms)

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        """As the inner cache, or not at all."""
        self._check()
        if self.forgets_deaths:
            raise CacheUnavailable("just now")
        return await self._inner.deaths(name, since_ms)

    def listen(self, on_push: Callable[[bytes], None], on_gap: Callable[[], None]) -> None:
        """As the inner cache."""
        self._inner.listen(on_push, on_gap)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to let go of."""

    def _check(self) -> None:
        if self.is_down:
            raise CacheUnavailable("down")


def serving(
    cache: LeaseStore,
    replies: Callable[[list[Reply]], None],
    clock: Clock,
    pending: int = 100,
    *,
    max_stored_bytes: int = 2**20,
    count: Callable[[str], None] = lambda _kind: None,
    on_refresh: Callable[[str, str], None] = lambda _model, _ended: None,
) -> Service:
    """A service over a cache; its times to live are exact."""
    answers = CachedAnswers(cache, clock.ms, count)
    leases = Leases(cache, answers, lease_s=3.0)
    leader = Leader(answers, leases, max_stored_bytes=max_stored_bytes, ttl_factor=lambda: 1.0)
    return Service(answers, leader, replies, pending=pending, on_refresh=on_refresh)


class Replies:
    """Collects what a service delivers, and lets a test wait for it."""

    def __init__(self) -> None:
        self.all: list[Reply] = []
        self._more = asyncio.Event()

    def __call__(self, replies: list[Reply]) -> None:
        self.all += replies
        self._more.set()

    async def wait_for(self, count: int) -> list[Reply]:
        """Wait until that many have come."""
        while len(self.all) < count:
            self._more.clear()
            await self._more.wait()
        return self.all

    def bodies(self) -> list[bytes]:
        """What was said."""
        return [reply.outcome.body for reply in self.all]

    def codes(self) -> list[str]:
        """The error codes, `ok` for results."""
        return [reply.outcome.code.name if reply.outcome.code else "ok" for reply in self.all]

    def kinds(self) -> list[str]:
        """The cache statuses."""
        return [reply.status.kind for reply in self.all]


async def served(predictor: AnyPredictor, **options: Any) -> ServedModel:
    """A loaded model."""
    model = ServedModel(predictor, **{"namespace": "", "max_depth": 64, "max_reply_bytes": 2**20, **options})
    await model.load()
    return model


def asker(model: ServedModel) -> Callable[..., Request]:
    """Makes requests to a model."""

    def ask(
        text: str = "a",
        *,
        tenant: bytes = b"",
        directives: Directives = NO_DIRECTIVES,
        timeout_s: float = 10.0,
        body: bytes | None = None,
    ) -> Request:
        now = asyncio.get_running_loop().time()
        return Request(
            model=model,
            body=Question(text=text).model_dump_json().encode() if body is None else body,
            tenant=tenant,
            received_at=now,
            deadline=now + timeout_s,
            directives=directives,
        )

    return ask


_caches: tuple[LeaseStore, ...] = (MemoryCache(), BrokenCache())  # mypy proves the fakes honest
