"""The core over a store that keeps no order between look-ups and steps: it must not rely on any."""

import asyncio
import random

import looptime
import pytest

from prediction_responder import Answer, predictor
from prediction_responder.cache import LeaseStore
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.operate.explain import subject_of
from prediction_responder.operate.invalidate import Invalidation
from prediction_schemas import Directives
from tests.fakes import Echo, Question, served
from tests.replica import Replica
from tests.stores import TwoConnections

BODY = b'{"text":"a"}'


class Scene:
    """Two replicas; the first one is behind two connections. Answers say which version was asked for."""

    def __init__(self) -> None:
        self.version = 0
        self.calls = 0
        self.memory = MemoryCache()
        self.apart = TwoConnections(self.memory)
        self.work_s = 0.0

    async def build(self) -> None:
        """With a model that both have loaded."""

        @predictor(name="echo", ttl_s=60)
        async def echo(_question: Question) -> Answer[Echo]:
            began_in = self.version
            self.calls += 1
            await asyncio.sleep(self.work_s)
            return Answer(Echo(text=str(began_in)))

        model = await served(echo)
        stores: list[LeaseStore] = [self.apart, self.memory.beside()]
        self.one, self.other = (Replica(store, model) for store in stores)
        self.operator = Invalidation(self.memory.beside(), "")
        self.digest = subject_of(model, b"", BODY).key.digest

    async def shown(self, replica: Replica, directives: Directives | None = None) -> int:
        """The version that an answer is of."""
        reply = await replica.ask(directives=directives or Directives())
        return int(reply.outcome.body.rpartition(b':"')[2].rstrip(b'"}'))


async def settle() -> None:
    """Let everything happen that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_answer_found_before_an_invalidation_is_not_given_after_it() -> None:
    """A flight's claim has found an answer, and its reply is still to come. The answer is invalidated.

    A request that comes now looks up faster than that reply comes, finds nothing, and must not join the flight.
    """
    scene = Scene()
    await scene.build()
    await scene.shown(scene.other)  # so that the model has a generation
    await scene.operator.key(scene.digest)
    scene.apart.steps.there.clear()
    early = asyncio.ensure_future(scene.shown(scene.one))
    await settle()  # it has missed, and its claim is on its way
    await scene.shown(scene.other)  # an answer is stored
    scene.apart.steps.back.clear()
    scene.apart.steps.there.set()
    await settle()  # the claim has found it
    scene.version += 1
    assert await scene.operator.key(scene.digest)
    late = asyncio.ensure_future(scene.shown(scene.one))
    await settle()
    scene.apart.steps.back.set()
    assert await early == 0
    assert await late == 1


async def test_a_request_whose_look_up_was_sent_first_joins_the_flight() -> None:
    """Its question is older than whatever the flight asks: one call for both, however late the look-up comes back."""
    scene = Scene()
    await scene.build()
    await scene.shown(scene.other)
    await scene.operator.key(scene.digest)
    calls = scene.calls
    scene.apart.look_ups.back.clear()
    asked = [asyncio.ensure_future(scene.shown(scene.one)) for _ in range(3)]
    await settle()
    scene.work_s = 0.01
    scene.apart.look_ups.back.set()
    assert await asyncio.gather(*asked) == [0, 0, 0]
    assert scene.calls == calls + 1


@pytest.mark.parametrize("seed", range(20))
def test_no_answer_is_older_than_its_invalidation(seed: int) -> None:
    """Requests, invalidations of both kinds, and delays of each way of each connection, in virtual time."""
    chance = random.Random(seed)

    async def hold(scene: Scene) -> None:
        ways = [way for one in (scene.apart.look_ups, scene.apart.steps) for way in (one.there, one.back)]
        while True:
            way = chance.choice(ways)
            way.clear()
            await asyncio.sleep(chance.random() * 0.02)
            way.set()
            await asyncio.sleep(chance.random() * 0.01)

    async def run() -> None:
        scene = Scene()
        await scene.build()
        holding = asyncio.ensure_future(hold(scene))
        wishes = [Directives(), Directives(), Directives(no_cache=True), Directives(max_age_s=0)]
        asked: list[tuple[int, asyncio.Future[int]]] = []
        for _ in range(150):
            scene.work_s = chance.choice([0.0, 0.003, 0.05])
            for _ in range(chance.randint(0, 3)):
                replica = chance.choice([scene.one, scene.one, scene.other])
                asked.append((scene.version, asyncio.ensure_future(scene.shown(replica, chance.choice(wishes)))))
            await asyncio.sleep(chance.random() * 0.02)
            if chance.random() < 0.5:
                scene.version += 1
                await (scene.operator.key(scene.digest) if chance.random() < 0.5 else scene.operator.model("echo"))
        answers = await asyncio.gather(*(future for _, future in asked))
        holding.cancel()
        assert [(since, got) for (since, _), got in zip(asked, answers, strict=True) if got < since] == []
        await scene.one.leases.close()
        await scene.other.leases.close()

    loop = looptime.new_event_loop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()
