"""Answers in memory, for tests of callers: the responder's own service, without a broker or Redis.

    async with answering(price) as client:
        assert await client.predict("price", {"pair": "ETH/EUR"}) == {"price": 2300.25}

`price` is a predictor: the real model, or one that the test writes. Keys, validation, coalescing, caching, directives
and errors are the responder's; only the network is left out.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from amqp_lane import MemoryBroker
from prediction_client.blocking import BlockingPredictionClient
from prediction_client.client import PredictionClient
from prediction_client.options import ClientOptions
from prediction_responder import Responder, Settings
from prediction_responder.model.predictor import Servable


class _NotFromTheEnvironment(Settings):
    """Settings that ignore the environment."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **_named: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


@asynccontextmanager
async def answering(*predictors: Servable, client: ClientOptions | None = None) -> AsyncIterator[PredictionClient]:
    """A client whose calls are answered by these predictors, in this process.

    Args:
        predictors: the models; a call to any other model raises UnknownModel.
        client: options for `PredictionClient`.
    """
    broker = MemoryBroker()
    options: ClientOptions = {**(client or {}), "transport": broker}
    settings = _NotFromTheEnvironment.model_validate(
        {
            "AMQP_URL": "amqp://in.memory/",
            "REDIS_URL": "memory://",
            "namespace": options.get("namespace", ""),
            "grace_s": 0.1,  # a model that never answers does not delay the end of a test
        }
    )
    async with (
        Responder(predictors, settings, transport=broker),
        PredictionClient("", **options) as one,
    ):
        yield one


@contextmanager
def answering_blocking(
    *predictors: Servable, client: ClientOptions | None = None
) -> Iterator[BlockingPredictionClient]:
    """The same for blocking code."""
    with BlockingPredictionClient.of(lambda: answering(*predictors, client=client)) as one:
        yield one
