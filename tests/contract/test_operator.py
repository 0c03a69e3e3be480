"""What an operator asks, inside a responder and beside one: the same in memory and on Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from amqp_lane import MemoryBroker
from deploy.found import Servers
from prediction_client import PredictionClient
from prediction_client.testing import _NotFromTheEnvironment
from prediction_responder import Responder
from prediction_responder.cache import LeaseStore
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.cache.redis import RedisCache
from prediction_responder.clock import SYSTEM_CLOCK
from prediction_responder.operate.explain import Explanation, explain, subject_of
from prediction_responder.operate.invalidate import Invalidation
from tests.fakes import GatedModel, served
from tests.real import until
from tests.replica import Replica

BODY = b'{"text":"a"}'


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def stores(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[tuple[LeaseStore, LeaseStore]]:
    """A replica's, and one for an operator beside it."""
    if request.param == "memory":
        async with MemoryCache() as one:
            yield one, one.beside()
    else:
        url = request.getfixturevalue("servers").redis_url
        async with (
            RedisCache(url, timeout_s=2.0, inbox=f"{namespace}1") as one,
            RedisCache(url, timeout_s=2.0) as other,
        ):
            yield one, other


async def test_explain_says_what_is_there_and_who_leads_and_invalidate_takes_it_away(
    stores: tuple[LeaseStore, LeaseStore], namespace: str
) -> None:
    """From nothing to a lease, an answer, and nothing again: of one key, of a model, of all."""
    store, beside = stores
    gated = GatedModel()
    model = await served(gated.predictor(), namespace=namespace)
    replica, operator = Replica(store, model), Invalidation(beside, namespace)

    async def seen(tenant: bytes = b"") -> Explanation:
        return await explain(beside, subject_of(model, tenant, BODY), SYSTEM_CLOCK)

    nothing = await seen()
    assert (nothing.state, nothing.generation, nothing.leader) == ("none", None, None)
    assert not await operator.model("echo")
    assert await operator.all() == []
    asked = asyncio.ensure_future(replica.ask())
    await until(lambda: gated.running == 1)
    led = await seen()
    assert (led.state, led.attempts) == ("lease", 1)
    assert led.leader is not None
    assert 0 < led.leader.lease_left_s <= 3
    gated.gate.set()
    await asked
    kept = await seen()
    assert (kept.state, kept.attempts) == ("fresh", 0)
    assert kept.fresh_for_s is not None
    assert 50 < kept.fresh_for_s < 70
    assert await operator.key(bytes.fromhex(kept.key))
    assert not await operator.key(bytes.fromhex(kept.key))
    assert (await seen()).state == "none"
    assert (await replica.ask()).status.kind == "miss"
    assert await operator.all() == ["echo"]
    assert (await seen()).state == "other generation"
    assert (await seen(b"ann")).state == "none"
    assert (await replica.ask()).status.kind == "miss"
    assert (await replica.ask()).status.kind == "hit"
    assert await operator.model("echo")
    assert (await replica.ask()).status.kind == "miss"
    await replica.leases.close()


@pytest.mark.parametrize("kind", ["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def test_a_responder_explains_and_invalidates_its_own_answers(
    request: pytest.FixtureRequest, namespace: str, kind: str
) -> None:
    """By input, by key, by model, and all; wrong words are one line."""
    servers: Servers | None = request.getfixturevalue("servers") if kind == "redis" else None
    settings = _NotFromTheEnvironment.model_validate(
        {
            "AMQP_URL": "amqp://in.memory/",
            "REDIS_URL": servers.redis_url if servers else "memory://",
            "namespace": namespace,
            "grace_s": 0.1,
        }
    )
    broker, model = MemoryBroker(), GatedModel(is_open=True)
    responder = Responder([model.predictor()], settings, transport=broker)
    with pytest.raises(RuntimeError, match="has not been entered"):
        await responder.invalidate("echo")
    async with responder, PredictionClient("", namespace=namespace, transport=broker) as client:

        async def kind_of(text: str = "a") -> str:
            return (await client.ask("echo", {"text": text}, timeout_s=10)).cache_status.kind

        assert not await responder.invalidate("echo")
        assert [await kind_of(), await kind_of(), await kind_of("b")] == ["miss", "hit", "miss"]
        explained = await responder.explain("echo", {"text": "a"})
        assert explained.state == "fresh"
        assert explained.decision.startswith("answered from the cache")
        assert (await responder.explain("echo", {"text": "a"}, cache_control="no-cache")).decision.startswith(
            "the model"
        )
        assert await responder.invalidate("echo", {"text": "a"})
        assert [await kind_of(), await kind_of("b")] == ["miss", "hit"]
        assert await responder.invalidate(key=explained.key)
        assert [await kind_of(), await kind_of("b")] == ["miss", "hit"]
        assert await responder.invalidate("echo")
        assert [await kind_of(), await kind_of("b")] == ["miss", "miss"]
        assert await responder.invalidate(every=True)
        assert [await kind_of(), await kind_of("b")] == ["miss", "miss"]
        for call, words in (
            (responder.invalidate("nobody", {}), "no model 'nobody' is served here, only echo"),
            (responder.invalidate("echo", {"text": 7}), "text: Input should be a valid string"),
            (responder.invalidate(key="abc"), "a key has 32 hexadecimal digits"),
            (responder.invalidate(), "give one of"),
            (responder.invalidate(features={"text": "a"}), "give one of"),
            (responder.invalidate("echo", key=explained.key), "give one of"),
            (responder.invalidate("echo", every=True), "give one of"),
            (responder.invalidate("echo", tenant="ann"), "tenant belongs to features"),
            (responder.invalidate("echo", None), "Input should be"),
        ):
            with pytest.raises(ValueError, match=words):
                await call
        with pytest.raises(ValueError, match="cannot parse the directives 'max-age=x'"):
            await responder.explain("echo", {"text": "a"}, cache_control="max-age=x")
