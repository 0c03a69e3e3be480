"""Replicas on a real Redis: what they promise each other, counted on the wire and hurt through a proxy."""

import asyncio
import random
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest

from deploy.found import Servers
from prediction_responder import Answer, Unavailable, predictor
from prediction_responder.cache.keys import Part, beside_name
from prediction_responder.cache.redis import RedisCache
from prediction_responder.cache.redis_link import RedisLink
from prediction_responder.cache.redis_pipeline import Subscription
from prediction_responder.operate.explain import subject_of
from prediction_responder.operate.invalidate import Invalidation
from prediction_schemas import Code, Directives
from prediction_schemas.canonical import canonical_bytes
from tests.fakes import Echo, GatedModel, Question
from tests.pace import Pace
from tests.proxy import Proxy
from tests.real import ROOT, own_redis, until
from tests.replica import on_redis

pytestmark = pytest.mark.servers


async def test_round_trips_on_the_wire(servers: Servers, namespace: str) -> None:
    """A hit takes one, a leader three at most, a follower three at most and a push, on another connection."""
    model = GatedModel()
    async with (
        Proxy.running(servers.redis_url) as here,
        Proxy.running(servers.redis_url) as there,
        on_redis(here.plain_url(servers.redis_url), model.predictor(), namespace=namespace) as one,
        on_redis(there.plain_url(servers.redis_url), model.predictor(), namespace=namespace) as other,
    ):

        def reached(turns: int) -> bool:
            return there.turns[0] >= turns

        taken: list[tuple[int, int]] = []
        for text in ("scripts are told to Redis here", "a"):
            before = here.turns[0], there.turns[0]
            model.gate.clear()
            leader = asyncio.ensure_future(one.ask(text))
            await until(lambda: model.running == 1)
            following = asyncio.ensure_future(other.ask(text))
            await until(partial(reached, before[1] + 3))
            model.gate.set()
            kinds = [reply.status.kind for reply in await asyncio.gather(leader, following)]
            taken.append((here.turns[0] - before[0], there.turns[0] - before[1]))
        before = here.turns[0], 0
        hit = await one.ask("a")
        taken.append((here.turns[0] - before[0], 0))
    assert [*kinds, hit.status.kind] == ["miss", "collapsed", "hit"]
    assert taken[1][0] <= 3
    assert taken[1][1] <= 3
    assert taken[2][0] == 1


async def test_a_follower_on_another_replica_is_woken_at_once(servers: Servers, namespace: str) -> None:
    """In the median of 200, within ten bare trips of a message through Redis, from the moment the model ends."""
    behind_ms: list[float] = []
    bare_ms: list[float] = []
    model = GatedModel()
    heard = asyncio.Event()
    bare = Subscription({f"{namespace}bare".encode(): lambda _message: heard.set()}, lambda: None)
    async with (
        on_redis(servers.redis_url, model.predictor(), namespace=namespace) as one,
        on_redis(servers.redis_url, model.predictor(), namespace=namespace) as other,
        RedisLink(servers.redis_url, timeout_s=2.0) as link,
        RedisLink(servers.redis_url, timeout_s=2.0, subscription=bare),
    ):
        for number in range(200):
            heard.clear()
            began = time.perf_counter()
            link.ask("PUBLISH", f"{namespace}bare", b"x")
            await heard.wait()
            bare_ms.append((time.perf_counter() - began) * 1000)
            model.gate.clear()
            leader = asyncio.ensure_future(one.ask(str(number)))
            await until(lambda: model.running == 1)
            following = asyncio.ensure_future(other.ask(str(number)))
            waiting = beside_name(
                one.model.keys.key(b"", canonical_bytes(Question(text=str(number)))).name, Part.INBOXES
            )
            while not await link.ask("SCARD", waiting):  # until it has registered
                pass
            began = time.perf_counter()
            model.gate.set()
            assert (await following).status.kind == "collapsed"
            behind_ms.append((time.perf_counter() - began) * 1000)
            await leader
    assert len(model.calls) == 200
    assert statistics.median(behind_ms) <= 10 * statistics.median(bare_ms)


async def test_a_claim_whose_reply_is_lost_does_not_wait_for_a_lease(
    pace: Pace, servers: Servers, namespace: str
) -> None:
    """The operation timeout, and then the model; what it answers is there as soon as Redis is."""
    model = GatedModel(is_open=True)
    async with (
        Proxy.running(servers.redis_url) as proxy,
        on_redis(proxy.plain_url(servers.redis_url), model.predictor(), namespace=namespace) as one,
        on_redis(servers.redis_url, model.predictor(), namespace=namespace) as other,
    ):
        await one.ask("warm")
        proxy.drop_reply_to(b"NX")
        began = time.perf_counter()
        first = await one.ask()
        took_s = time.perf_counter() - began
        second = await other.ask()
        assert time.perf_counter() - began < 1.0 * pace.now()
    assert took_s < 0.2 + 0.15 * pace.now()
    assert proxy.dropped == 1
    assert (first.status.kind, model.calls) == ("miss", ["warm", "a"])
    assert second.status.kind in ("hit", "collapsed")


async def test_a_silent_redis_delays_one_request_and_no_other(pace: Pace, tmp_path: Path, namespace: str) -> None:
    """By the operation timeout at most; the next ones by less than a millisecond; hits within 2 s of its return."""
    model = GatedModel(is_open=True)
    with own_redis(tmp_path) as redis:
        async with on_redis(redis.url, model.predictor(), namespace=namespace) as one:
            assert (await one.ask("kept")).status.kind == "miss"
            redis.freeze()
            began = time.perf_counter()
            assert (await one.ask("first")).outcome.code is None
            took_s = time.perf_counter() - began
            took_ms = []
            for number in range(200):
                began = time.perf_counter()
                assert (await one.ask(str(number))).outcome.code is None
                took_ms.append((time.perf_counter() - began) * 1000)
            redis.thaw()
            thawed_at = time.perf_counter()
            await until(lambda: one.cache_is_up)
            assert (await one.ask("kept")).status.kind == "hit"
            back_s = time.perf_counter() - thawed_at
    assert took_s < 0.2 + 0.1 * pace.now()
    assert statistics.median(took_ms) < 1.0 * pace.now()
    assert back_s < 2.0 * pace.now()


async def test_an_answer_that_was_invalidated_never_comes_back(servers: Servers, namespace: str) -> None:
    """A thousand times at random moments, of one key or of the model, with flights in the air on two replicas."""
    chance = random.Random(4)
    version = 0

    @predictor(name="echo", ttl_s=60)
    async def echo(question: Question) -> Answer[Echo]:
        began_with = version
        await asyncio.sleep(chance.random() * 0.004)
        return Answer(Echo(text=f"{began_with}"), ttl_s=chance.choice([0, 0.001, 60]))

    wishes = [Directives(), Directives(), Directives(no_cache=True), Directives(max_age_s=0), Directives(max_age_s=5)]

    async def shown(replica: int) -> int:
        reply = await them[replica].ask(directives=chance.choice(wishes))
        return int(reply.outcome.body.rpartition(b':"')[2].rstrip(b'"}'))

    async with AsyncExitStack() as stack:
        them = [
            await stack.enter_async_context(on_redis(servers.redis_url, echo, namespace=namespace)) for _ in range(2)
        ]
        cache = await stack.enter_async_context(RedisCache(servers.redis_url, timeout_s=2.0))
        operator = Invalidation(cache, namespace)
        digest = subject_of(them[0].model, b"", b'{"text":"a"}').key.digest
        old: list[asyncio.Future[int]] = []
        for _ in range(1000):
            old += [asyncio.ensure_future(shown(number)) for number in (0, 1, 0, 1)[: chance.randint(0, 4)]]
            await asyncio.sleep(chance.random() * 0.004)
            version += 1
            if chance.random() < 0.5:
                await operator.key(digest)
            else:
                await operator.model("echo")
            assert min(await asyncio.gather(shown(0), shown(1))) >= version
        await asyncio.gather(*old)


@pytest.mark.parametrize("way", ["key", "model"])
@pytest.mark.parametrize("first", ["no-cache", "plain"])
async def test_a_late_answer_is_not_stored_over_a_newer_one(
    servers: Servers, namespace: str, way: str, first: str
) -> None:
    """A long call begins; the answer is invalidated; another replica stores a newer one, or one that has expired."""
    version, begun, gates = 0, list[int](), [asyncio.Event(), asyncio.Event()]
    gates[1].set()

    @predictor(name="echo", ttl_s=60)
    async def echo(question: Question) -> Answer[Echo]:
        mine = version
        begun.append(mine)
        await gates[mine].wait()
        return Answer(Echo(text=f"{mine}"), ttl_s=60 if mine == 0 or first == "no-cache" else 0.02)

    async with (
        on_redis(servers.redis_url, echo, namespace=namespace, lease_s=0.6) as one,
        on_redis(servers.redis_url, echo, namespace=namespace, lease_s=0.6) as other,
        RedisCache(servers.redis_url, timeout_s=2.0) as cache,
    ):
        operator = Invalidation(cache, namespace)
        no_cache = Directives(no_cache=first == "no-cache")
        long = asyncio.ensure_future(one.ask(directives=no_cache))
        await until(lambda: begun == [0])
        digest = subject_of(one.model, b"", b'{"text":"a"}').key.digest
        version = 1
        await (operator.key(digest) if way == "key" else operator.model("echo"))
        for replica in (other, one):  # on the replica of the long call, too
            assert b'"1"' in (await replica.ask(directives=no_cache)).outcome.body
        await asyncio.sleep(0.5)  # renewals come by, and the short answer expires
        gates[0].set()
        assert b'"0"' in (await long).outcome.body
        for replica in (one, other):
            assert b'"1"' in (await replica.ask()).outcome.body


async def test_a_flight_that_is_given_up_while_it_claims_leaves_no_lease(
    pace: Pace, servers: Servers, namespace: str
) -> None:
    """Its requester's deadline ends before the claim is answered: the next one does not wait for a lease."""
    model, slow = GatedModel(is_open=True), pace.now()
    through = partial(on_redis, predictor=model.predictor(), namespace=namespace, lease_s=60 * slow)
    async with (
        Proxy.running(servers.redis_url) as proxy,
        through(proxy.plain_url(servers.redis_url), timeout_s=2 * slow) as one,
        through(servers.redis_url) as other,
    ):
        await one.ask("warm")
        proxy.drop_reply_to(b"NX")
        given_up = asyncio.ensure_future(one.ask(timeout_s=0.5 * slow))
        await until(lambda: proxy.dropped == 1)
        assert (await given_up).outcome.code is Code.DEADLINE_EXCEEDED
        async with asyncio.timeout(20 * slow):  # a third of the lease
            assert (await other.ask()).outcome.code is None


async def test_no_old_answer_comes_back_when_a_generation_is_lost(servers: Servers, namespace: str) -> None:
    """Evicted or flushed: it is replaced by a new random one."""
    model = GatedModel(is_open=True)
    async with (
        on_redis(servers.redis_url, model.predictor(), namespace=namespace) as one,
        on_redis(servers.redis_url, model.predictor(), namespace=namespace) as other,
        RedisLink(servers.redis_url, timeout_s=2.0) as link,
    ):
        await one.ask()
        assert (await other.ask()).status.kind == "hit"
        assert await link.ask("DEL", one.model.keys.generation_name) == 1
        assert (await other.ask()).status.kind == "miss"
        assert (await one.ask()).status.kind == "hit"
    assert model.calls == ["a", "a"]


async def test_a_failure_reaches_all_replicas_at_once(pace: Pace, servers: Servers, namespace: str) -> None:
    """Twenty followers on four replicas: one call, one error, nobody tries in turn."""
    calls = 0

    @predictor(name="echo", ttl_s=60)
    async def echo(question: Question) -> Echo:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.5)
        raise Unavailable(retry_after_s=7)

    async with AsyncExitStack() as stack:
        them = [
            await stack.enter_async_context(on_redis(servers.redis_url, echo, namespace=namespace)) for _ in range(4)
        ]
        began = time.perf_counter()
        replies = await asyncio.gather(*(one.ask() for one in them for _ in range(5)))
        took_s = time.perf_counter() - began
    assert took_s < 0.5 + 0.3 * pace.now()
    assert calls == 1
    assert {(reply.outcome.code and reply.outcome.code.name, reply.outcome.retry_after_ms) for reply in replies} == {
        ("UNAVAILABLE", 7000)
    }


async def test_refreshes_are_shared_too(servers: Servers, namespace: str) -> None:
    """`no-cache` on four replicas at once: the flights that began before one's receipt do not count, so two at most."""
    model = GatedModel(is_open=True)
    async with AsyncExitStack() as stack:
        them = [
            await stack.enter_async_context(on_redis(servers.redis_url, model.predictor(), namespace=namespace))
            for _ in range(4)
        ]
        link = await stack.enter_async_context(RedisLink(servers.redis_url, timeout_s=2.0))
        await them[0].ask()
        model.gate.clear()
        asked = [asyncio.ensure_future(one.ask(directives=Directives(no_cache=True))) for one in them]
        waiting = beside_name(them[0].model.keys.key(b"", canonical_bytes(Question(text="a"))).name, Part.INBOXES)
        while await link.ask("SCARD", waiting) < 3:  # who registers too late is told of no end
            pass
        assert (await them[1].ask()).status.kind == "hit"  # others are answered meanwhile
        model.gate.set()
        replies = await asyncio.gather(*asked)
    assert {reply.outcome.code for reply in replies} == {None}
    assert 2 <= len(model.calls) <= 3


def test_the_commands_on_the_command_line(servers: Servers, namespace: str) -> None:
    """Their exit statuses, and what they say to wrong words."""

    def run(*words: str, **environment: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "prediction_responder", *words],
            cwd=ROOT,
            env={"REDIS_URL": servers.redis_url, "RESPONDER_NAMESPACE": namespace} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    status, said = run("explain", "tests.models:oracle", '{"number": 1}', "--json")
    assert status == 0
    assert '"state": "none"' in said
    key = said.partition('"key": "')[2][:32]
    assert run("invalidate", "--key", key) == (0, f"nothing was cached for {key}\n")
    status, said = run("invalidate", "orcale")
    assert (status, "was never asked" in said) == (1, True)
    assert run("invalidate", "--all", "--json")[0] == 0
    for words, complaint in (
        (["invalidate"], "give one of"),
        (["invalidate", "oracle", "--all"], "give one of"),
        (["invalidate", "--key", "abc"], "32 hexadecimal digits"),
        (["explain", "tests.models:oracle", '{"number": "x"}'], "number"),
    ):
        status, said = run(*words)
        assert (status, complaint in said) == (2, True), said
    status, said = run("invalidate", "oracle", REDIS_URL="redis://127.0.0.1:1/0")
    assert (status, "Redis: " in said) == (1, True)
    status, said = run("invalidate", "oracle", REDIS_URL="memory://")
    assert (status, "memory://" in said) == (1, True)
