"""A replica without a broker: the service over a cache, in this process."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prediction_responder.cache import CachedAnswers, LeaseStore
from prediction_responder.cache.redis import RedisCache
from prediction_responder.clock import SYSTEM_CLOCK
from prediction_responder.execution.served import ServedModel
from prediction_responder.flight.leader import Leader
from prediction_responder.flight.lease import Leases
from prediction_responder.messages import Reply, Request
from prediction_responder.model.predictor import AnyPredictor
from prediction_responder.service import Service
from prediction_schemas import NO_DIRECTIVES, Directives
from tests.fakes import Notes, asker


class Replica:
    """One of several."""

    def __init__(self, store: LeaseStore, model: ServedModel, lease_s: float = 3.0) -> None:
        self._store = store
        self.notes = Notes()
        self.odd = self.notes.odd_ones
        self.answers = CachedAnswers(store, self.notes)
        self.leases = Leases(store, self.answers, SYSTEM_CLOCK, lease_s=lease_s, observer=self.notes)
        leader = Leader(self.answers, self.leases, SYSTEM_CLOCK, max_stored_bytes=2**20)
        self.service = Service(self.answers, leader, self._deliver, SYSTEM_CLOCK, pending=10_000)
        self.model = model
        self._ask: Callable[..., Request] = asker(model)
        self._asked: dict[Request, asyncio.Future[Reply]] = {}

    async def ask(self, text: str = "a", directives: Directives = NO_DIRECTIVES, timeout_s: float = 10.0) -> Reply:
        """Ask, and wait for the reply."""
        request = self._ask(text, directives=directives, timeout_s=timeout_s)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._asked[request] = reply
        await self.service.handle([request])
        return await reply

    @property
    def cache_is_up(self) -> bool:
        """Whether Redis answers."""
        return isinstance(self._store, RedisCache) and self._store.is_up

    def _deliver(self, replies: list[Reply]) -> None:
        for reply in replies:
            self._asked.pop(reply.request).set_result(reply)


@asynccontextmanager
async def on_redis(
    url: str, predictor: AnyPredictor, *, namespace: str, lease_s: float = 3.0, timeout_s: float = 0.2
) -> AsyncIterator[Replica]:
    """A replica whose cache is Redis."""
    model = ServedModel(predictor, namespace=namespace, max_depth=64, max_reply_bytes=2**20)
    await model.load()
    async with RedisCache(url, timeout_s=timeout_s, inbox=f"{namespace}{secrets.token_hex(8)}") as store:
        one = Replica(store, model, lease_s)
        try:
            yield one
        finally:
            await one.service.idle()
            await one.leases.close()
