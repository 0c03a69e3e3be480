"""What every cache promises."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.found import Servers
from prediction_responder.cache import Cache, CacheUnavailable
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.cache.redis import RedisCache
from prediction_responder.cache.redis_link import RedisLink
from tests.fakes import Clock
from tests.pace import Pace
from tests.real import own_redis, until


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    """Each implementation."""
    if request.param == "memory":
        one: Cache = MemoryCache()
    else:
        servers: Servers = request.getfixturevalue("servers")
        one = RedisCache(servers.redis_url, timeout_s=2.0)
    async with one:
        yield one


async def test_values_come_back_in_the_order_of_their_names(cache: Cache, namespace: str) -> None:
    """And None where there is none, the same name twice included."""
    await cache.put(f"{namespace}a", b"1", 60_000)
    await cache.put(f"{namespace}b", b"", 60_000)
    names = [f"{namespace}{name}" for name in ("b", "none", "a", "a")]
    assert await cache.get_many(names) == [b"", None, b"1", b"1"]
    assert await cache.get_many([]) == []


async def test_a_later_value_replaces_an_earlier_one(cache: Cache, namespace: str) -> None:
    """With its own time to live."""
    await cache.put(f"{namespace}a", b"1", 60_000)
    await cache.put(f"{namespace}a", b"2", 60_000)
    assert await cache.get_many([f"{namespace}a"]) == [b"2"]


async def test_a_value_expires(cache: Cache, namespace: str) -> None:
    """Expired is absent."""
    await cache.put(f"{namespace}a", b"1", 30)
    async with asyncio.timeout(5):
        while await cache.get_many([f"{namespace}a"]) != [None]:  # noqa: ASYNC110 - an expiry sets no event
            await asyncio.sleep(0)


@pytest.mark.parametrize("ttl_ms", [0, -1])
async def test_nothing_lives_for_ever(cache: Cache, namespace: str, ttl_ms: int) -> None:
    """Redis refuses `PX 0`; others have made immortal values of it."""
    with pytest.raises(ValueError, match="positive"):
        await cache.put(f"{namespace}a", b"1", ttl_ms)
    assert await cache.get_many([f"{namespace}a"]) == [None]


async def test_memory_is_bounded_and_drops_what_was_used_least_recently() -> None:
    """By bytes, names included."""
    cache = MemoryCache(max_bytes=40, clock=Clock())
    for name in "abcd":
        await cache.put(name, b"123456789", 1000)
    await cache.get_many(["a"])
    await cache.put("e", b"123456789", 1000)
    assert await cache.get_many(["a", "b", "e"]) == [b"123456789", None, b"123456789"]


@pytest.mark.servers
@pytest.mark.parametrize("hurt", ["kill", "freeze"])
async def test_a_dead_and_a_silent_redis_are_unavailable_within_the_timeout(
    pace: Pace, tmp_path: Path, hurt: str
) -> None:
    """Once, and then at once; never another exception; and it works again within 2 s of Redis' return."""
    loop = asyncio.get_running_loop()
    with own_redis(tmp_path) as redis:
        async with RedisCache(redis.url, timeout_s=0.2) as cache:
            await cache.put("a", b"1", 60_000)
            getattr(redis, hurt)()
            began = loop.time()
            with pytest.raises(CacheUnavailable):
                await cache.get_many(["a"])
            assert loop.time() - began < 0.2 + 0.15 * pace.now()
            began = loop.time()
            for _ in range(100):
                with pytest.raises(CacheUnavailable):
                    await cache.put("a", b"2", 60_000)
            assert loop.time() - began < 100 * 0.001 * pace.now()
            redis.start() if hurt == "kill" else redis.thaw()
            await until(lambda: cache.is_up, timeout_s=2)
            await cache.put("a", b"3", 60_000)
            assert await cache.get_many(["a"]) == [b"3"]


@pytest.mark.servers
async def test_a_cancelled_question_leaves_the_replies_of_others_in_their_places(
    servers: Servers, namespace: str
) -> None:
    """Replies come in order on one connection: one that nobody waits for any more is read and dropped."""
    async with RedisCache(servers.redis_url, timeout_s=2.0) as cache:
        names = [f"{namespace}{number}" for number in range(50)]
        for name in names:
            await cache.put(name, name.encode(), 60_000)
        asked = [asyncio.ensure_future(cache.get_many([name])) for name in names]
        await asyncio.sleep(0)
        for one in asked[::2]:
            one.cancel()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert ends[1::2] == [[name.encode()] for name in names[1::2]]
        assert all(isinstance(end, asyncio.CancelledError) for end in ends[::2])
        assert await cache.get_many(names) == [name.encode() for name in names]


@pytest.mark.servers
async def test_an_error_for_one_command_is_that_command_s_alone(servers: Servers, namespace: str) -> None:
    """A name that too many things use: the neighbours on the connection get their answers."""
    async with RedisLink(servers.redis_url, timeout_s=2.0) as link:
        await link.ask("SET", f"{namespace}a", "text", "PX", 60_000)
        before, wrong, after = link.ask("ECHO", "1"), link.ask("INCR", f"{namespace}a"), link.ask("ECHO", "2")
        with pytest.raises(CacheUnavailable, match="not an integer"):
            await wrong
        assert (await before, await after) == (b"1", b"2")


@pytest.mark.servers
async def test_what_waits_when_a_link_is_closed_is_told(servers: Servers) -> None:
    """Nobody hangs on a reply that will not come."""
    async with RedisLink(servers.redis_url, timeout_s=2.0) as link:
        waiting = link.ask("BLPOP", "nothing", 10)
    with pytest.raises(CacheUnavailable):
        await waiting


@pytest.mark.servers
async def test_many_names_are_asked_for_in_parts_and_come_back_in_their_order(servers: Servers, namespace: str) -> None:
    """No MGET is so long that Redis has no time for others."""
    async with RedisCache(servers.redis_url, timeout_s=2.0) as cache:
        names = [f"{namespace}{number}" for number in range(1000)]
        await asyncio.gather(*(cache.put(name, name.encode(), 60_000) for name in names[::2]))
        found = await cache.get_many(names)
    assert found == [name.encode() if number % 2 == 0 else None for number, name in enumerate(names)]


@pytest.mark.servers
async def test_a_login_that_fails_is_one_problem_and_no_noise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A wrong password says so; nothing is left that nobody looks at. With the right one, and a user, it works."""
    with own_redis(tmp_path) as redis:
        async with RedisLink(redis.url, timeout_s=1.0) as plain:
            await plain.ask("ACL", "SETUSER", "ann", "on", ">word", "~*", "+@all")
            await plain.ask("CONFIG", "SET", "requirepass", "secret")
        host = redis.url.removeprefix("redis://")
        for login, fails in (("ann:wrong@", True), ("", True), ("ann:word@", False), (":secret@", False)):
            async with RedisLink(f"redis://{login}{host.removesuffix('/0')}/3", timeout_s=1.0) as link:
                assert link.is_up is not fails, login
                if fails:
                    with pytest.raises(CacheUnavailable, match=r"WRONGPASS|NOAUTH"):
                        await link.ask("PING")
                else:
                    assert await link.ask("PING") == b"PONG"
            gc.collect()
    assert "never retrieved" not in caplog.text
