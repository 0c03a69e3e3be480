"""A client and a responder over RabbitMQ, and over nothing at all: callers cannot tell the difference."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from deploy.found import Servers
from prediction_client import (
    BlockingPredictionClient,
    CacheMiss,
    DeadlineExceeded,
    InvalidArgument,
    ModelFailed,
    PredictionClient,
    UnknownModel,
)
from prediction_client.testing import answering_blocking
from prediction_responder.model.predictor import AnyPredictor
from tests.fakes import GatedModel
from tests.models import oracle
from tests.real import embedded, settings, until

Serve = Callable[..., AbstractAsyncContextManager[PredictionClient]]


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.servers)])
def serve(request: pytest.FixtureRequest, answering: Serve, namespace: str) -> Serve:
    """Serves a predictor, and yields a client that asks it."""
    if request.param == "memory":
        return answering
    servers: Servers = request.getfixturevalue("servers")

    @asynccontextmanager
    async def serve(predictor: AnyPredictor, client: dict[str, Any] | None = None) -> AsyncIterator[PredictionClient]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(embedded(predictor, settings(servers, namespace)))
            options = {"namespace": namespace} | (client or {})
            yield await stack.enter_async_context(PredictionClient(servers.amqp_url, **options))

    return serve


async def test_answers_come_from_the_model_and_then_from_the_cache(serve: Serve) -> None:
    """With the same bytes and words about where they came from."""
    async with serve(oracle) as client:
        first, second = [await client.ask("oracle", {"number": 12}) for _ in range(2)]
        assert (first.value, second.value) == ({"square": 144}, {"square": 144})
        assert (first.cache_status.kind, second.cache_status.kind) == ("miss", "hit")
        assert (first.model, first.model_version, first.age_s) == ("oracle", "1", 0)
        with pytest.raises(CacheMiss):
            await client.ask("oracle", {"number": 13}, cache_control="only-if-cached")
        assert await client.warm("oracle", [{"number": 14}]) == 1
        async with asyncio.timeout(5):
            while not (await client.ask("oracle", {"number": 14})).cache_status.hit:
                pass


async def test_equal_questions_at_once_are_one_call(serve: Serve) -> None:
    """And a caller that leaves takes nobody with it."""
    model = GatedModel()
    async with serve(model.predictor()) as client:
        calls = [asyncio.create_task(client.ask("echo", {"text": "a"})) for _ in range(20)]
        await model.begun.wait()
        await until(lambda: "waiting=20" in repr(client))
        calls.pop().cancel()
        model.gate.set()
        kinds = [reply.cache_status.kind for reply in await asyncio.gather(*calls)]
        assert set(kinds) <= {"miss", "collapsed", "hit"}
        assert kinds.count("miss") <= 1
        assert model.calls == ["a"]


SLOW = {"number": 2, "seconds": 2}
ERRORS: dict[str, tuple[Callable[[PredictionClient], Awaitable[Any]], type[Exception]]] = {
    "a wrong input": (lambda client: client.ask("oracle", {"number": "x"}), InvalidArgument),
    "a model that raises": (lambda client: client.ask("oracle", {"number": 1, "ending": "raise"}), ModelFailed),
    "a model that is not there": (lambda client: client.ask("nobody", {}), UnknownModel),
    "too little time": (
        lambda client: client.ask("oracle", {"number": 2, "seconds": 2}, timeout_s=0.2),
        DeadlineExceeded,
    ),
}


@pytest.mark.parametrize("what", ERRORS)
async def test_errors_are_the_same(serve: Serve, what: str) -> None:
    """Typed."""
    call, expected = ERRORS[what]
    async with serve(oracle) as client:
        with pytest.raises(expected):
            await call(client)


async def test_ten_thousand_calls_are_answered(serve: Serve) -> None:
    """In their order, and nothing is left behind."""
    async with serve(oracle) as client:
        inputs = [{"number": number % 200} for number in range(10_000)]
        answers = await client.predict_many("oracle", inputs)
        assert answers == [{"square": one["number"] ** 2} for one in inputs]
        assert "waiting=0" in repr(client)


def test_code_that_blocks_is_answered_in_memory_too(
    answering_blocking: Callable[..., AbstractAsyncContextManager[BlockingPredictionClient]],
) -> None:
    """By the fixture that comes with the package."""
    with answering_blocking(oracle) as client:  # type: ignore[attr-defined]
        assert client.predict("oracle", {"number": 5}) == {"square": 25}
        with pytest.raises(UnknownModel):
            client.predict("nobody", {})


def test_the_functions_are_there_without_fixtures() -> None:
    """For other test frameworks."""
    with answering_blocking(oracle) as client:
        assert client.predict("oracle", {"number": 6}) == {"square": 36}
