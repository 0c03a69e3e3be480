"""Whatever the code of a model's owner raises, wherever it runs: an error at once, and the next request is answered."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator, model_serializer, model_validator

from amqp_lane import MemoryBroker, Transport
from deploy.found import Servers
from prediction_client import ModelFailed, PredictionClient
from prediction_client.testing import _NotFromTheEnvironment
from prediction_responder import Responder, predictor
from prediction_responder.model.predictor import AnyPredictor


class Panic(BaseException):
    """As Rust libraries raise it (pyo3's PanicException)."""


class Bad(Exception):
    """It cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


KINDS: dict[str, Callable[[], BaseException]] = {
    "panic": lambda: Panic("called `Option::unwrap()` on a `None` value"),
    "exit": lambda: SystemExit(3),
    "interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "group of base": lambda: BaseExceptionGroup("several", [Panic("x"), ValueError("y")]),
    "cancelled": asyncio.CancelledError,
    "stop": StopIteration,
    "stop async": StopAsyncIteration,
    "group": lambda: ExceptionGroup("several", [ValueError("x")]),
    "bad": Bad,
    "key": lambda: KeyError("label"),
    "recursion": RecursionError,
    "memory": MemoryError,
}
PLACES = ("validator", "after validator", "model", "output", "serializer")


def trouble(place: str, asked: dict[str, Any]) -> None:
    """Raise what is asked for, if it is asked for here."""
    if asked.get("place") == place:
        raise KINDS[asked["kind"]]()


class Ask(BaseModel):
    """What to raise, and where."""

    place: str
    kind: str = ""

    @field_validator("kind")
    @classmethod
    def _validate(cls, kind: str, info: Any) -> str:
        trouble("validator", {"place": info.data.get("place"), "kind": kind})
        return kind

    @model_validator(mode="after")
    def _after(self) -> "Ask":
        trouble("after validator", {"place": self.place, "kind": self.kind})
        return self


class Out(BaseModel):
    """An output whose own code fails."""

    place: str = ""
    kind: str = ""

    @model_validator(mode="after")
    def _validate(self) -> "Out":
        trouble("output", {"place": self.place, "kind": self.kind})
        return self

    @model_serializer
    def _serialize(self) -> dict[str, str]:
        trouble("serializer", {"place": self.place, "kind": self.kind})
        return {"place": self.place}


@predictor(name="loop", timeout_s=20)
async def on_the_loop(ask: Ask) -> Out:
    """On the event loop."""
    trouble("model", ask.model_dump())
    return Out.model_construct(place=ask.place, kind=ask.kind) if ask.place != "output" else Out(**ask.model_dump())


@predictor(name="threads", timeout_s=20)
def in_threads(ask: Ask) -> Out:
    """In a thread."""
    trouble("model", ask.model_dump())
    return Out.model_construct(place=ask.place, kind=ask.kind) if ask.place != "output" else Out(**ask.model_dump())


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=[pytest.mark.servers, pytest.mark.any_server])])
async def client(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[PredictionClient]:
    """Of a responder with both models."""
    transport: Transport | None = MemoryBroker()
    urls = {"AMQP_URL": "amqp://in.memory/", "REDIS_URL": "memory://"}
    if request.param == "rabbitmq":
        servers: Servers = request.getfixturevalue("servers")
        transport = None
        urls = {"AMQP_URL": servers.amqp_url, "REDIS_URL": servers.redis_url}
    settings = _NotFromTheEnvironment.model_validate({**urls, "namespace": namespace, "grace_s": 1})
    models: list[AnyPredictor] = [on_the_loop, in_threads]
    async with (
        Responder(models, settings, transport=transport) as responder,
        PredictionClient(urls["AMQP_URL"], namespace=namespace, transport=transport, timeout_s=15) as one,
    ):
        await responder.ready()
        yield one
        assert responder.missing == []


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", ["loop", "threads"])
async def test_every_exception_in_every_place_is_an_error_at_once(
    client: PredictionClient, model: str, place: str
) -> None:
    """500, long before the model's limit and the caller's timeout; and the responder goes on, for all kinds in turn."""
    asked = [{"place": place, "kind": kind} for kind in KINDS]
    async with asyncio.timeout(10):
        answers = await client.predict_many(model, asked, return_errors=True)
    wrong = {
        kind: answer
        for kind, answer in zip(KINDS, answers, strict=True)
        if not isinstance(answer, ModelFailed) or answer.code not in ("MODEL_ERROR", "MODEL_OUTPUT_INVALID")
    }
    assert wrong == {}
    assert await client.predict(model, {"place": "nowhere"}) == {"place": "nowhere"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["load", "close", "__init__"])
async def test_an_exception_of_a_hook_is_one_line_and_ends_no_loop(hook: str, kind: str) -> None:
    """`load` and `__init__` are tried again, and then serving fails with the model's name; `close` is only logged."""

    def raise_it(self: object) -> None:
        raise KINDS[kind]()

    async def predict(self: object, ask: Ask) -> Out:
        return Out(place=ask.place)

    owned = type("Owned", (), {"predict": predict, hook: raise_it})
    settings = _NotFromTheEnvironment.model_validate(
        {"AMQP_URL": "amqp://in.memory/", "REDIS_URL": "memory://", "load_timeout_s": 0, "grace_s": 0.1}
    )
    responder = Responder([predictor(name="owned")(owned)], settings, transport=MemoryBroker())
    if hook == "close":
        async with responder:
            pass
        return
    with pytest.raises(Exception, match="model owned: loading failed"):
        await responder.__aenter__()


def plain_hook(done: list[str], name: str) -> Callable[[Any], Any]:
    """A function."""

    def hook(_self: object) -> None:
        done.append(name)

    return hook


def async_hook(done: list[str], name: str) -> Callable[[Any], Any]:
    """A coroutine function."""

    async def hook(_self: object) -> None:
        await asyncio.sleep(0)
        done.append(name)

    return hook


def awaitable_hook(done: list[str], name: str) -> Callable[[Any], Any]:
    """A function that returns a coroutine, as some decorators make them."""
    inner = async_hook(done, name)
    return lambda self: inner(self)


@pytest.mark.parametrize("close", [plain_hook, async_hook, awaitable_hook])
@pytest.mark.parametrize("load", [plain_hook, async_hook, awaitable_hook])
@pytest.mark.parametrize("is_async", [True, False])
async def test_each_hook_may_be_a_function_or_a_coroutine_function(
    is_async: bool,  # noqa: FBT001 - drawn
    load: Callable[[list[str], str], Callable[[Any], Any]],
    close: Callable[[list[str], str], Callable[[Any], Any]],
) -> None:
    """Whatever `predict` is."""
    done: list[str] = []

    async def predict(_self: object, ask: Ask) -> Out:
        return Out(place="".join(done))

    def predict_in_a_thread(_self: object, ask: Ask) -> Out:
        return Out(place="".join(done))

    methods = {
        "predict": predict if is_async else predict_in_a_thread,
        "load": load(done, "load"),
        "close": close(done, "close"),
    }
    settings = _NotFromTheEnvironment.model_validate(
        {"AMQP_URL": "amqp://in.memory/", "REDIS_URL": "memory://", "grace_s": 0.1}
    )
    broker = MemoryBroker()
    async with (
        Responder([predictor(name="owned")(type("Owned", (), methods))], settings, transport=broker),
        PredictionClient("", transport=broker) as client,
    ):
        assert await client.predict("owned", {"place": "nowhere"}) == {"place": "load"}
    assert done == ["load", "close"]


async def test_a_model_is_made_off_the_loop_unless_it_needs_the_loop() -> None:
    """A slow `__init__` leaves probes and signals alone; one that makes a client of an asyncio library still works."""
    threads: list[str] = []

    class Slow:
        def __init__(self) -> None:
            threads.append(threading.current_thread().name)

        async def predict(self, ask: Ask) -> Out:
            return Out(place="slow")

    class Needs:
        def __init__(self) -> None:
            self.loop = asyncio.get_running_loop()

        async def predict(self, ask: Ask) -> Out:
            return Out(place="needs")

    settings = _NotFromTheEnvironment.model_validate(
        {"AMQP_URL": "amqp://in.memory/", "REDIS_URL": "memory://", "grace_s": 0.1}
    )
    broker = MemoryBroker()
    models: list[Any] = [predictor(name="slow")(Slow), predictor(name="needs")(Needs)]
    async with Responder(models, settings, transport=broker), PredictionClient("", transport=broker) as client:
        for name in ("slow", "needs"):
            assert await client.predict(name, {"place": "nowhere"}) == {"place": name}
    assert threads != [threading.current_thread().name]
