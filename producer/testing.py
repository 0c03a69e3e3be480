"""Answers in memory, for the tests of those who ask: no broker, no Redis, and the responder's own service.

    async with answering(price) as client:
        assert await client.predict("price", {"pair": "ETH/EUR"}) == {"price": 2300.25}

`price` is a predictor as a responder serves it: the real model, or one that the test writes. Keys, validation,
coalescing, caching, directives and errors are the responder's; only the network is left out.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from lane import MemoryBroker
from producer.blocking import BlockingPredictionClient
from producer.client import PredictionClient
from responder import Responder, Settings
from responder.predictor import Predictor


@asynccontextmanager
async def answering(*predictors: Predictor, client: dict[str, Any] | None = None) -> AsyncIterator[PredictionClient]:
    """A client whose calls these predictors answer, in this process.

    Args:
        predictors: who answers; a call to any other model is UnknownModel.
        client: options for `PredictionClient`.
    """
    broker = MemoryBroker()
    settings = Settings.model_validate({"AMQP_URL": "amqp://in.memory/", "REDIS_URL": "memory://"})
    async with (
        Responder(predictors, settings, transport=broker),
        PredictionClient("", transport=broker, **(client or {})) as one,
    ):
        yield one


@contextmanager
def answering_blocking(
    *predictors: Predictor, client: dict[str, Any] | None = None
) -> Iterator[BlockingPredictionClient]:
    """The same for code that blocks."""
    with BlockingPredictionClient.of(lambda: answering(*predictors, client=client)) as one:
        yield one
