"""Models that block run in threads."""

import threading
import time

import pytest

from prediction_responder import predictor
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.model.predictor import AnyPredictor
from tests.fakes import Clock, Echo, Question, Replies, asker, served, serving
from tests.pace import Pace


def blocking(gate: threading.Event, *, concurrency: int | None = None, timeout_s: float = 30.0) -> AnyPredictor:
    """A blocking model that waits for a gate."""

    @predictor(name="blocking", concurrency=concurrency, timeout_s=timeout_s)
    def model(question: Question) -> Echo:
        gate.wait(10)
        if question.text == "stop":
            raise StopIteration
        if question.text == "exit":
            raise SystemExit
        return Echo(text=f"{question.text} {threading.current_thread().name.rpartition('_')[0]}")

    return model


async def test_a_blocking_model_runs_in_a_thread_of_its_own(pace: Pace) -> None:
    """The event loop turns while it works."""
    gate, replies = threading.Event(), Replies()
    service = serving(MemoryCache(), replies, Clock())
    ask = asker(await served(blocking(gate)))
    began = time.monotonic()
    await service.handle([ask()])
    assert time.monotonic() - began < 5 * pace.now()
    gate.set()
    await replies.wait_for(1)
    assert replies.bodies() == [b'{"result":{"text":"a model-blocking"}}']


@pytest.mark.parametrize("text", ["stop", "exit"])
async def test_exceptions_that_futures_and_threads_mishandle_are_model_errors(text: str) -> None:
    """StopIteration and SystemExit end the call, not the thread."""
    gate, replies = threading.Event(), Replies()
    gate.set()
    service = serving(MemoryCache(), replies, Clock())
    ask = asker(await served(blocking(gate, concurrency=1)))
    await service.handle([ask(text)])
    await replies.wait_for(1)
    await service.handle([ask("fine")])
    await replies.wait_for(2)
    assert replies.codes() == ["MODEL_ERROR", "ok"]


async def test_a_hung_thread_keeps_its_permit_and_no_other() -> None:
    """A thread cannot be stopped, so the call is given up and one of two permits stays taken."""
    gate, replies = threading.Event(), Replies()
    service = serving(MemoryCache(), replies, Clock())
    model = await served(blocking(gate, concurrency=2, timeout_s=0.05))
    ask = asker(model)
    await service.handle([ask("hung")])
    await replies.wait_for(1)
    assert replies.codes() == ["DEADLINE_EXCEEDED"]
    gate.set()
    await service.handle([ask("next")])
    await replies.wait_for(2)
    assert replies.codes() == ["DEADLINE_EXCEEDED", "ok"]
    await model.close()


async def test_a_class_is_loaded_before_and_closed_after() -> None:
    """`load`, `predict`, `close`, each in a thread."""
    events: list[str] = []

    @predictor(name="classy")
    class Classy:
        def load(self) -> None:
            events.append("load")

        def predict(self, question: Question) -> Echo:
            events.append("predict")
            return Echo(text="x")

        def close(self) -> None:
            events.append("close")

    replies = Replies()
    service = serving(MemoryCache(), replies, Clock())
    model = await served(Classy)  # type: ignore[arg-type]
    await service.handle([asker(model)()])
    await replies.wait_for(1)
    await model.close()
    assert events == ["load", "predict", "close"]
