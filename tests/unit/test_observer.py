"""What an observer of an embedded responder is told, and that it can hurt nobody."""

from collections.abc import Sequence

import pytest

from amqp_lane import MemoryBroker
from prediction_client import InvalidArgument, PredictionClient
from prediction_client.testing import _NotFromTheEnvironment
from prediction_responder import Observer, Responder, predictor
from prediction_responder.messages import Outcome, Reply, Request
from prediction_responder.observe.events import Call
from tests.fakes import Echo, Question

SETTINGS = {"AMQP_URL": "amqp://in.memory/", "REDIS_URL": "memory://", "grace_s": 0.1}


class Journal(Observer):
    """Writes everything down."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.running: set[int] = set()

    def received(self, batch: Sequence[Request]) -> None:
        self.lines += [f"received {request.model.name}" for request in batch]

    def replied(self, replies: Sequence[Reply]) -> None:
        self.lines += [f"replied {one.outcome.code.name if one.outcome.code else one.status.kind}" for one in replies]

    def call_started(self, call: Call) -> None:
        self.running.add(call.number)
        self.lines.append(f"started {call.model} for {len(call.waiting)}")

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        self.running.remove(call.number)
        self.lines.append(f"ended {call.model}")

    def settled(self, fate: str, count: int) -> None:
        self.lines += [fate] * count


class Furious(Observer):
    """Raises at everything that happens to a request."""

    def received(self, batch: Sequence[Request]) -> None:
        raise RuntimeError

    def replied(self, replies: Sequence[Reply]) -> None:
        raise RuntimeError

    def call_started(self, call: Call) -> None:
        raise RuntimeError

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        raise RuntimeError

    def settled(self, fate: str, count: int) -> None:
        raise RuntimeError


@predictor
async def echo(question: Question) -> Echo:
    """A model."""
    return Echo(text=question.text)


async def test_an_observer_is_told_of_a_miss_a_hit_and_a_refusal_in_order() -> None:
    """Requests and replies once each, the call between them."""
    broker, journal = MemoryBroker(), Journal()
    settings = _NotFromTheEnvironment.model_validate(SETTINGS)
    async with (
        Responder([echo], settings, transport=broker, observer=journal),
        PredictionClient("", transport=broker) as client,
    ):
        for _ in range(2):
            await client.predict("echo", {"text": "a"})
        with pytest.raises(InvalidArgument):
            await client.predict("echo", {"text": 7})
    assert [line for line in journal.lines if line != "confirmed"] == [
        "received echo",
        "started echo for 1",
        "ended echo",
        "replied miss",
        "received echo",
        "replied hit",
        "received echo",
        "replied INVALID_ARGUMENT",
    ]
    assert journal.lines.count("confirmed") == 3


async def test_an_observer_that_raises_hurts_no_request(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; the other observers hear of everything, and answers come."""
    broker, settings = MemoryBroker(), _NotFromTheEnvironment.model_validate(SETTINGS)
    async with (
        Responder([echo], settings, transport=broker, observer=Furious()),
        PredictionClient("", transport=broker, timeout_s=5) as client,
    ):
        assert await client.predict("echo", {"text": "a"}) == {"text": "a"}
        assert (await client.ask("echo", {"text": "a"})).cache_status.hit
    assert "observer_failed observer=Furious" in caplog.text
