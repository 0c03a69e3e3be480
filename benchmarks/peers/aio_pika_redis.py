"""aio-pika with a callback per message, redis-py with a pool: `aio_pika_redis.py URL REDIS_URL QUEUE TYPE`."""

import asyncio
import json
import sys
from typing import Any

import aio_pika
import redis.asyncio
import uvloop


async def predict(features: dict[str, Any]) -> dict[str, float]:
    """A model that takes a moment."""
    await asyncio.sleep(0.01)
    return {"price": float(len(features["pair"]))}


async def serve(url: str, redis_url: str, queue_name: str, queue_type: str) -> None:
    """Consume, look up, answer, acknowledge."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(redis_url, max_connections=50)
    cache = redis.asyncio.Redis(connection_pool=pool)
    connection = await aio_pika.connect_robust(url)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=200)
    queue = await channel.declare_queue(queue_name, durable=True, arguments={"x-queue-type": queue_type})

    async def on_message(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        async with message.process():
            features = json.loads(message.body)
            key = json.dumps(features, sort_keys=True)
            answer: Any = await cache.get(key)
            if answer is None:
                answer = json.dumps({"result": await predict(features)}).encode()
                await cache.set(key, answer, ex=600)
            reply = aio_pika.Message(answer, correlation_id=message.correlation_id, type="result")
            await channel.default_exchange.publish(reply, routing_key=message.reply_to or "")

    await queue.consume(on_message)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
