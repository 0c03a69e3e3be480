"""For the tests of a model: a client that the model answers in memory, without a broker or Redis.

async with answering(price) as client:
    assert await client.predict("price", {"pair": "ETH/EUR"}) == {"price": 2300.25}
"""

from prediction_client.testing import answering, answering_blocking

__all__ = ["answering", "answering_blocking"]
