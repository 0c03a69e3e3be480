"""The client in memory: what it takes, what it gives, and how its life begins and ends."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, computed_field

from amqp_lane import MemoryBroker
from prediction_client import (
    BlockingPredictionClient,
    CacheStatus,
    CallOptions,
    DeadlineExceeded,
    InvalidArgument,
    NoBroker,
    PredictionClient,
    PredictionError,
    UnknownModel,
)
from prediction_client.options import LOCAL, environment_options
from prediction_client.testing import answering
from prediction_responder import predictor
from tests.pace import Pace
from tests.real import ROOT


class Query(BaseModel):
    """An input with a name for others, and a field that nobody may send."""

    model_config = ConfigDict(extra="forbid")

    pair: str = Field(alias="pairName")

    @computed_field
    def base(self) -> str:
        """The half before the slash."""
        return self.pair.partition("/")[0]


class Verdict(BaseModel):
    """An output that is strict about its types."""

    model_config = ConfigDict(strict=True)

    at: datetime = Field(alias="when")
    range: tuple[int, int] = (1, 2)


@predictor(name="judge", ttl_s=60)
async def judge(query: Query) -> Verdict:
    """The beginning of a year."""
    return Verdict(when=datetime(2026, 1, 1, tzinfo=UTC))


async def test_models_survive_the_way_there_and_back() -> None:
    """With aliases, computed fields and strict types; both names of a field are one question."""
    async with answering(judge) as client:
        for one in (Query(pairName="ETH/EUR"), {"pairName": "ETH/EUR"}, {"pair": "ETH/EUR"}):
            assert (await client.predict("judge", one, output=Verdict)).at.year == 2026
        assert (await client.ask("judge", {"pair": "ETH/EUR"})).cache_status.kind == "hit"
        assert (await client.predict("judge", {"pair": "a"}, output=TypeAdapter(Verdict))).range == (1, 2)
        assert (await client.predict("judge", {"pair": "a"}, output=dict[str, Any]))["range"] == [1, 2]


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -float("inf")])
async def test_a_timeout_that_never_ends_is_refused(seconds: float) -> None:
    """And one that is over has nothing sent; one of a century is good."""
    async with answering(judge) as client:
        with pytest.raises(ValueError, match="a timeout must be a finite number of seconds"):
            await client.predict("judge", {"pair": "a"}, timeout_s=seconds)
        with pytest.raises(ValueError, match="a timeout must be a finite number of seconds"):
            await client.predict_many("judge", [{"pair": "a"}], timeout_s=seconds)
        with pytest.raises(DeadlineExceeded):
            await client.predict("judge", {"pair": "a"}, timeout_s=0)
        assert await client.predict("judge", {"pair": "a"}, timeout_s=3e9)


@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        ("", {}, UnknownModel),
        ("dead", {}, UnknownModel),
        ("x" * 300, {}, UnknownModel),
        ("judge", {"tenant": "x" * 2000}, InvalidArgument),
        ("judge", {"tenant": "\ud800"}, InvalidArgument),
        ("judge", {"cache_control": "max-age=" + "9" * 2000}, InvalidArgument),
    ],
)
async def test_what_cannot_be_sent_is_a_typed_error(model: str, options: CallOptions, error: type[Exception]) -> None:
    """At once, and of the kind that is not tried again. `dead` is where dead letters lie."""
    async with answering(judge) as client:
        with pytest.raises(error):
            await client.predict(model, {"pair": "a"}, **options)


async def test_wrong_options_are_refused() -> None:
    """Instead of being read as another one."""
    with pytest.raises(ValueError, match="max_in_flight must be 1 or more"):
        PredictionClient("", max_in_flight=0)
    async with answering(judge) as client:
        with pytest.raises(TypeError, match="timout_s"):
            await client.predict_many("judge", [{"pair": "a"}], timout_s=1)  # type: ignore[call-overload]


async def test_a_client_is_entered_once() -> None:
    """Before, and after, every call says so at once; `warm` as well."""
    client = PredictionClient("", transport=MemoryBroker())

    async def says_no() -> None:
        for call in (client.predict("judge", {}), client.predict_many("judge", [{}]), client.warm("judge", [{}])):
            with pytest.raises(NoBroker, match="the client is closed, or was never entered"):
                await call

    await says_no()
    async with client:
        with pytest.raises(RuntimeError, match="entered only once"):
            await client.__aenter__()
    await says_no()
    with pytest.raises(RuntimeError, match="entered only once"):
        await client.__aenter__()


async def test_a_call_between_two_attempts_takes_nobody_s_room() -> None:
    """And does not outlive its client."""
    from prediction_responder import Unavailable

    @predictor(name="down", ttl_s=0)
    async def down(query: Query) -> Verdict:
        raise Unavailable(retry_after_s=5)

    async with answering(judge, down, client={"max_in_flight": 2}) as client:
        waiting = [asyncio.ensure_future(client.predict("down", {"pair": str(number)})) for number in range(2)]
        for _ in range(50):
            await asyncio.sleep(0)
        async with asyncio.timeout(1):
            await client.predict("judge", {"pair": "a"})
    async with asyncio.timeout(1):
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NoBroker, NoBroker]


async def test_answers_in_memory_hear_nothing_of_the_environment(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the machine that the tests run on; and a model that never answers does not hold up the end."""
    monkeypatch.setenv("RESPONDER_NAMESPACE", "staging.")
    monkeypatch.setenv("RESPONDER_REQUIRE_USER_ID", ".+")
    monkeypatch.setenv("RESPONDER_PREFETCH", "none")

    @predictor(name="stuck")
    async def stuck(query: Query) -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    began = asyncio.get_running_loop().time()
    async with answering(judge, stuck, client={"namespace": "prod."}) as client:
        await client.predict("judge", {"pair": "a"})
        with pytest.raises(DeadlineExceeded):
            await client.predict("stuck", {"pair": "a"}, timeout_s=0.1)
    assert asyncio.get_running_loop().time() - began < 3 * pace.now()


def test_inputs_of_a_blocking_client_are_read_in_its_caller_s_thread(
    answering_blocking: Callable[..., AbstractContextManager[BlockingPredictionClient]],
) -> None:
    """So they may come out of a database, be slow, and even ask the client themselves."""
    threads: set[str] = set()

    def inputs(client: BlockingPredictionClient) -> Iterator[dict[str, str]]:
        for number in range(3):
            threads.add(threading.current_thread().name)
            client.predict("judge", {"pair": f"before {number}"}, timeout_s=5)
            yield {"pair": str(number)}

    with answering_blocking(judge) as client:
        assert len(client.predict_many("judge", inputs(client), timeout_s=5)) == 3
        assert client.warm("judge", inputs(client)) == 3
    assert threads == {threading.current_thread().name}


def test_a_blocking_client_outside_of_its_life_says_so() -> None:
    """Before it is entered, and when it is entered again."""
    client = BlockingPredictionClient("amqp://nowhere/")
    with pytest.raises(NoBroker):
        client.predict("judge", {})
    client.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_blocking_client_and_a_fork() -> None:
    """One that is made before and entered after it works in each process; one that was open can be closed there."""
    script = """
import os, warnings
warnings.simplefilter("ignore")
from prediction_client.testing import answering
from prediction_client.blocking import BlockingPredictionClient
from tests.unit.test_client import judge

def ask(client):
    with client:
        return client.predict("judge", {"pair": "a"}, timeout_s=5)["range"]

made = BlockingPredictionClient.of(lambda: answering(judge))
opened = BlockingPredictionClient.of(lambda: answering(judge)).__enter__()
children = []
for number in range(2):
    child = os.fork()
    if not child:
        opened.close()
        os._exit(0 if ask(made) == [1, 2] else 1)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
assert opened.predict("judge", {"pair": "a"})
opened.close()
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=40, stdout=subprocess.DEVNULL)


async def test_an_error_names_its_call() -> None:
    """Model and correlation id; with a reply, also where it came from. Both faces, one call or many."""
    async with answering(judge) as client:
        with pytest.raises(InvalidArgument) as refused:
            await client.predict("judge", {"pair": 7})
        assert (refused.value.model, refused.value.cache_status) == ("judge", CacheStatus())
        first = refused.value.correlation_id
        [second] = await client.predict_many("judge", [{"pair": 7}], return_errors=True)
        assert first
        assert second.correlation_id not in (None, first)
        with pytest.raises(UnknownModel) as unknown:
            await client.ask("nobody", {})
        assert (unknown.value.model, unknown.value.cache_status) == ("nobody", None)
        with pytest.raises(InvalidArgument) as not_json:
            await client.ask("judge", float("nan"))
        assert not_json.value.model == "judge"
        with pytest.raises(UnknownModel) as unwarmed:
            await client.warm("nobody", [{}])
        assert unwarmed.value.model == "nobody"


async def test_ask_gives_the_value_in_the_type_that_is_asked_for() -> None:
    """As `predict` does, with everything else of the reply."""
    async with answering(judge) as client:
        asked = {"pair": "a"}
        plain = await client.ask("judge", asked)
        typed = await client.ask("judge", asked, output=dict[str, Any])
        assert typed.value == plain.value
        assert typed.cache_status.hit
        with pytest.raises(PredictionError, match="does not match int") as wrong:
            await client.ask("judge", asked, output=int)
        assert wrong.value.code == "MALFORMED_REPLY"
        assert wrong.value.correlation_id


async def test_a_connected_client_is_closed_by_hand_or_by_a_block() -> None:
    """`connect` opens it; `async with` on it opens it no second time, and closes it."""
    broker = MemoryBroker()
    client = await PredictionClient.connect("", transport=broker)
    with pytest.raises(UnknownModel):
        await client.predict("judge", {})
    await client.close()
    with pytest.raises(NoBroker):
        await client.predict("judge", {})
    async with await PredictionClient.connect("", transport=broker) as other:
        with pytest.raises(UnknownModel):
            await other.predict("judge", {})
    with pytest.raises(NoBroker):
        await other.predict("judge", {})


def test_the_environment_names_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same variables as for a responder; options go before them."""
    assert environment_options({}) == (LOCAL, {"namespace": "", "reply_exchange": ""})
    monkeypatch.setenv("AMQP_URL", "amqp://somewhere/")
    monkeypatch.setenv("RESPONDER_NAMESPACE", "staging.")
    monkeypatch.setenv("RESPONDER_REPLY_EXCHANGE", "replies")
    url, options = environment_options({"namespace": "other.", "timeout_s": 2.0})
    assert url == "amqp://somewhere/"
    assert options == {"namespace": "other.", "reply_exchange": "replies", "timeout_s": 2.0}
    with BlockingPredictionClient.from_environment(transport=MemoryBroker()) as client, pytest.raises(UnknownModel):
        client.predict("judge", {})
    with BlockingPredictionClient.connect("", transport=MemoryBroker()) as client, pytest.raises(UnknownModel):
        client.predict("judge", {})
