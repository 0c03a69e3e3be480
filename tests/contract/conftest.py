"""Two replicas of each store."""

from collections.abc import AsyncIterator

import pytest

from deploy.found import Servers
from prediction_responder.cache import Place, Slot
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.cache.redis import RedisCache
from tests.marks import Both


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def stores(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[Both]:
    """Two replicas of each implementation."""
    if request.param == "memory":
        memory = MemoryCache()
        async with memory as one, memory.beside() as other:
            yield one, other
    else:
        servers: Servers = request.getfixturevalue("servers")
        url = servers.redis_url
        async with (
            RedisCache(url, timeout_s=2.0, inbox=f"{namespace}1") as here,
            RedisCache(url, timeout_s=2.0, inbox=f"{namespace}2") as there,
        ):
            yield here, there


@pytest.fixture
def place(namespace: str) -> Place:
    """Where an answer's lease stands."""
    return Place(f"{namespace}{{a}}:v", Slot.VALUE)
