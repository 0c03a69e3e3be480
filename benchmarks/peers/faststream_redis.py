"""FastStream's subscriber with typed models, redis-py with a pool: `faststream_redis.py URL REDIS_URL QUEUE TYPE`."""

import asyncio
import sys

import redis.asyncio
import uvloop
from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
from pydantic import BaseModel


class Features(BaseModel):
    """An input."""

    pair: str
    horizon_minutes: int
    returns: list[float]


class Price(BaseModel):
    """An output."""

    price: float


def application(url: str, redis_url: str, queue_name: str, queue_type: str) -> FastStream:
    """A subscriber that looks its answers up."""
    cache = redis.asyncio.Redis(
        connection_pool=redis.asyncio.BlockingConnectionPool.from_url(redis_url, max_connections=50)
    )
    broker = RabbitBroker(url, default_channel=Channel(prefetch_count=200), logger=None)

    @broker.subscriber(RabbitQueue(queue_name, durable=True, queue_type=QueueType(queue_type)))  # type: ignore[untyped-decorator]
    async def predict(features: Features) -> Price:
        key = features.model_dump_json()
        answer = await cache.get(key)
        if answer is not None:
            return Price.model_validate_json(answer)
        await asyncio.sleep(0.01)
        price = Price(price=float(len(features.pair)))
        await cache.set(key, price.model_dump_json(), ex=600)
        return price

    return FastStream(broker, logger=None)


if __name__ == "__main__":
    uvloop.run(application(*sys.argv[1:]).run())
