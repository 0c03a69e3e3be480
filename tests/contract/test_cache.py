"""What every cache promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.found import Servers
from responder.cache import Cache, CacheUnavailable
from responder.cache.memory import MemoryCache
from responder.cache.redis import RedisCache
from tests.fakes import Clock
from tests.real import own_redis


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    """Each implementation."""
    if request.param == "memory":
        one: Cache = MemoryCache()
    else:
        servers: Servers = request.getfixturevalue("servers")
        one = RedisCache(servers.redis_url, timeout_s=2.0)
    yield one
    await one.close()


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
async def test_a_dead_and_a_silent_redis_are_unavailable_within_the_timeout(tmp_path: Path, hurt: str) -> None:
    """Never a minute, never another exception; and it works again when Redis does."""
    with own_redis(tmp_path) as redis:
        cache = RedisCache(redis.url, timeout_s=0.2)
        await cache.put("a", b"1", 60_000)
        getattr(redis, hurt)()
        began = asyncio.get_running_loop().time()
        with pytest.raises(CacheUnavailable):
            await cache.get_many(["a"])
        with pytest.raises(CacheUnavailable):
            await cache.put("a", b"2", 60_000)
        assert asyncio.get_running_loop().time() - began < 2 * 0.2 + 0.3
        redis.start() if hurt == "kill" else redis.thaw()
        await cache.put("a", b"3", 60_000)
        assert await cache.get_many(["a"]) == [b"3"]
        await cache.close()
