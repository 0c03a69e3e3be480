"""Two replicas of the service over one cache in memory, one model, and a clock that the test holds."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from prediction_responder import Answer, Unavailable, predictor
from prediction_responder.cache import LeaseStore
from prediction_responder.cache.generation import read_generation
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.execution.served import ServedModel
from prediction_responder.messages import Reply, Request
from prediction_schemas import NO_DIRECTIVES, Directives
from tests.fakes import BrokenCache, Clock, Echo, Notes, Question, Replies, Skewed, asker, served, serving

TTL_S, STALE_S, KEEP_S = 10, 5, 20


async def settle() -> None:
    """More turns of the loop than a claim and the start of a call take, to see what does not happen."""
    for _ in range(20):
        await asyncio.sleep(0)


class Model:
    """A model that answers, fails or waits as the test says."""

    def __init__(self) -> None:
        self.calls = self.running = self.most = 0
        self.numbers = False  # whether answers say in which call they were computed
        self.outcome: Callable[[], Any] = lambda: Echo(text="a")
        self.gate = asyncio.Event()
        self.gate.set()
        self._called = asyncio.Event()

    async def served(self, **options: Any) -> ServedModel:
        """It, loaded."""

        async def echo(question: Question) -> Echo | Answer[Echo]:
            self.calls += 1
            number, gate = self.calls, self.gate
            self._called.set()
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await gate.wait()
            finally:
                self.running -= 1
            made: Echo = self.outcome()
            return Echo(text=f"call {number}") if self.numbers and isinstance(made, Echo) else made

        return await served(predictor(**{"name": "echo", "ttl_s": TTL_S, **options})(echo))

    async def called(self, times: int) -> None:
        """Wait until it has been called so often."""
        while self.calls < times:
            self._called.clear()
            await self._called.wait()

    def fails(self, error: Exception | None = None) -> None:
        """From now on."""

        def fail() -> None:
            raise error or Unavailable

        self.outcome = fail


class House:
    """Two replicas, one cache, one model, and a clock that the test holds."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.cache = MemoryCache(clock=self.clock)
        self.notes = Notes()
        self.odd, self.refreshes = self.notes.odd_ones, self.notes.refreshes
        more = {"observer": self.notes, **options}
        self.all = [Replies(), Replies()]
        self.brittle = BrokenCache(self.cache)
        stores: list[LeaseStore] = [self.brittle, self.cache.beside()]
        self.clocks = [Skewed(self.clock) for _ in stores]
        self.services = [
            serving(store, to, clock, **more) for store, to, clock in zip(stores, self.all, self.clocks, strict=True)
        ]
        self.model = Model()
        self.ask: Callable[..., Request] = lambda: None  # type: ignore[assignment,return-value]

    @classmethod
    async def built(cls, model: dict[str, Any] | None = None, **options: Any) -> "House":
        """With its model loaded."""
        house = cls(**options)
        house.ask = asker(await house.model.served(**(model or {})))
        return house

    async def reply(self, *directives: Directives, at: int = 0, text: str = "a") -> list[Reply]:
        """Ask a replica, all at once, and wait for the replies and for everything that they have begun."""
        asked = [self.ask(text, directives=one) for one in directives or [NO_DIRECTIVES]]
        await self.services[at].handle(asked)
        await self.services[at].idle()
        replies = {reply.request: reply for reply in self.all[at].all}
        return [replies[request] for request in asked]

    @property
    def name(self) -> str:
        """Of the value, where there is one question only."""
        [name] = [name for name in self.cache._values if name.endswith(":v")]
        return name

    def invalidate_model(self) -> None:
        """As the operator's command does."""
        [name] = [name for name in self.cache._values if "generation" in name]
        before = read_generation(self.cache._get(name))
        assert before is not None
        self.cache._set(name, before.followed_by(secrets.token_bytes(8), self.clock.now_ms()).encoded, 10**12)

    def reply_to(self, request: Request) -> Reply:
        """What a request was answered."""
        [one] = [reply for to in self.all for reply in to.all if reply.request is request]
        return one

    async def idle(self) -> None:
        """Wait until nothing is in the air."""
        for service in self.services:
            await service.idle()

    async def kind(self, directives: Directives = NO_DIRECTIVES, at: int = 0) -> str:
        """Ask and say where the answer came from, or the error."""
        [one] = await self.reply(directives, at=at)
        return one.outcome.code.name if one.outcome.code else one.status.kind
