"""Working stand-ins: small, honest, and type-checked against the interfaces whose place they take."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from prediction_responder import predictor
from prediction_responder.cache import CachedAnswers, CacheUnavailable, LeaseStore, Place
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.execution.served import ServedModel
from prediction_responder.flight.leader import Leader
from prediction_responder.flight.lease import Leases
from prediction_responder.messages import Outcome, Reply, Request
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.observe.events import NOBODY, Call, Observer, Oddity, Refreshed
from prediction_responder.service import Service
from prediction_schemas import NO_DIRECTIVES, Directives
from tests.stores import Through

T = TypeVar("T")


class Question(BaseModel):
    """An input."""

    text: str
    weight: float = 1.0


class Echo(BaseModel):
    """An output."""

    text: str


class Clock:
    """A wall clock that the test holds, in seconds; deadlines and timers run by the loop."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def now_s(self) -> float:
        """The loop's."""
        return asyncio.get_running_loop().time()

    def now_ms(self) -> int:
        """As it stands."""
        return round(self.now * 1000)


class Skewed:
    """Another machine's clock, which is ahead or behind."""

    def __init__(self, right: Clock) -> None:
        self._right = right
        self.ahead_ms = 0
        self.now_s = right.now_s

    def now_ms(self) -> int:
        """Wrong by so much."""
        return self._right.now_ms() + self.ahead_ms


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


class BrokenCache(Through):
    """A cache that is down whenever the test says so."""

    def __init__(self, inner: LeaseStore | None = None) -> None:
        super().__init__(inner or MemoryCache())
        self.is_down = False
        self.forgets_deaths = False
        self.asked = 0

    @property
    def is_up(self) -> bool:
        """What its switch says."""
        return not self.is_down

    @property
    def problem(self) -> str | None:
        """What its switch says."""
        return "down" if self.is_down else None

    async def _over(self, work: Callable[[], Awaitable[T]]) -> T:
        if self.is_down:
            raise CacheUnavailable("down")
        return await work()

    async def get_many(self, names: Sequence[str]) -> list[bytes | None]:
        """Counted."""
        self.asked += 1
        return await super().get_many(names)

    def write_starts(self, place: Place, starts: Sequence[bytes], keep_ms: int) -> None:
        """Or not."""
        if not self.is_down:
            super().write_starts(place, starts, keep_ms)

    def write_deaths(self, name: str, starts: Sequence[bytes], at_ms: int) -> None:
        """Or not."""
        if not self.is_down:
            super().write_deaths(name, starts, at_ms)

    async def deaths(self, name: str, since_ms: int) -> set[bytes]:
        """Or that they are not known."""
        if self.forgets_deaths:
            raise CacheUnavailable("just now")
        return await super().deaths(name, since_ms)


class Notes(Observer):
    """An observer that takes notes."""

    def __init__(self) -> None:
        self.odd_ones: list[str] = []
        self.refreshes: list[str] = []
        self.started: list[tuple[str, int]] = []
        self.ended: list[str] = []

    def odd(self, kind: Oddity) -> None:
        """By its word."""
        self.odd_ones.append(kind.value)

    def refreshed(self, model: str, ended: Refreshed) -> None:
        """By its word."""
        self.refreshes.append(ended.value)

    def call_started(self, call: Call) -> None:
        """The model, and for how many requests."""
        self.started.append((call.model, len(call.waiting)))

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """The model."""
        self.ended.append(call.model)


def serving(
    cache: LeaseStore,
    replies: Callable[[list[Reply]], None],
    clock: "Clock | Skewed",
    pending: int = 100,
    *,
    max_stored_bytes: int = 2**20,
    observer: Observer = NOBODY,
) -> Service:
    """A service over a cache; its times to live are exact."""
    answers = CachedAnswers(cache, observer)
    leases = Leases(cache, answers, clock, lease_s=3.0, observer=observer)
    leader = Leader(
        answers, leases, clock, observer=observer, max_stored_bytes=max_stored_bytes, ttl_factor=lambda: 1.0
    )
    return Service(answers, leader, replies, clock, pending=pending, observer=observer)


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
