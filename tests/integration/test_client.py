"""The client library as other teams use it: typed, retried, bounded, cancelled, cut off, in loops and in threads."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from pydantic import BaseModel

from deploy.found import Servers
from deploy.processes import BrokerProcess
from prediction_client import (
    NO_RETRIES,
    BlockingPredictionClient,
    DeadlineExceeded,
    InvalidArgument,
    NoBroker,
    OutcomeUnknown,
    PredictionClient,
    PredictionError,
    Retries,
    Unavailable,
    UnknownModel,
)
from tests.books import Report
from tests.fakes import GatedModel
from tests.models import Done, Task, events, fresh, oracle, recorded
from tests.pace import Pace
from tests.proxy import Proxy
from tests.real import ForeignClient, embedded, responder_process, settings, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]


class Other(BaseModel):
    """What no model here says."""

    cube: int


@asynccontextmanager
async def served(servers: Servers, namespace: str, **options: object) -> AsyncIterator[PredictionClient]:
    """The oracle, and a client of it."""
    async with (
        embedded(oracle, settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace, **options) as client,  # type: ignore[arg-type]
    ):
        yield client


async def test_pydantic_models_go_in_and_come_out(servers: Servers, namespace: str) -> None:
    """The type that was asked for, or a typed error; many at once, in their order."""
    async with served(servers, namespace) as client:
        assert await client.predict("oracle", Task(number=3), output=Done) == Done(square=9)
        assert await client.predict("oracle", Task(number=3)) == {"square": 9}
        inputs = [Task(number=number) for number in range(50)]
        many = await client.predict_many("oracle", inputs, output=Done)
        assert [one.square for one in many] == [number**2 for number in range(50)]
        with pytest.raises(PredictionError, match="the answer does not match Other: cube: Field required") as failed:
            await client.predict("oracle", Task(number=3), output=Other)
        assert failed.value.code == "MALFORMED_REPLY"


async def test_many_calls_end_with_the_first_error_or_return_them_all(servers: Servers, namespace: str) -> None:
    """As `asyncio.gather` does, and bounded."""
    async with served(servers, namespace) as client:
        inputs = [{"number": 1}, {"number": "x"}, {"number": 3}]
        with pytest.raises(InvalidArgument):
            await client.predict_many("oracle", inputs)
        first, second, third = await client.predict_many("oracle", inputs, return_errors=True)
        assert (first, third) == ({"square": 1}, {"square": 9})
        assert isinstance(second, InvalidArgument)
        await until(lambda: "waiting=0" in repr(client))


async def test_what_may_pass_is_tried_again_and_nothing_else(
    servers: Servers, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is unavailable for a second costs a second; an input that is wrong is refused once."""
    monkeypatch.setenv("ORACLE_FOLDER", str(tmp_path))
    async with (
        embedded(fresh, settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace, retries=Retries(attempts=20)) as client,
        PredictionClient(servers.amqp_url, namespace=namespace, retries=NO_RETRIES) as impatient,
    ):
        broken = tmp_path / "fail-7"
        broken.touch()
        with pytest.raises(Unavailable):
            await impatient.predict("fresh", {"number": 7})
        call = asyncio.create_task(client.predict("fresh", {"number": 7}, timeout_s=20))
        await until(lambda: len(events(tmp_path, "fail")) >= 2)
        broken.unlink()
        assert await call == {"square": 49}
        with pytest.raises(InvalidArgument):
            await client.predict("fresh", {"number": "x"})
        with pytest.raises(DeadlineExceeded):
            await client.predict("fresh", {"number": 8, "seconds": 3}, timeout_s=0.3)


async def test_no_more_are_in_flight_than_was_said(servers: Servers, namespace: str) -> None:
    """The others wait for their turn, within their own time."""
    model = GatedModel()
    async with (
        embedded(model.predictor(), settings(servers, namespace)) as responder,
        PredictionClient(servers.amqp_url, namespace=namespace, max_in_flight=2) as client,
    ):
        calls = [asyncio.create_task(client.predict("echo", {"text": str(number)})) for number in range(5)]
        await until(lambda: responder.unsettled == 2)
        with pytest.raises(DeadlineExceeded, match="max_in_flight"):
            await client.predict("echo", {"text": "late"}, timeout_s=0.1)
        assert responder.unsettled == 2
        model.gate.set()
        assert await asyncio.gather(*calls) == [{"text": str(number)} for number in range(5)]


async def test_a_cache_is_warmed_by_requests_that_nobody_waits_for(servers: Servers, namespace: str) -> None:
    """All are hits then; a model that nobody serves is an error, and so is an input that is no JSON."""
    async with served(servers, namespace) as client:
        inputs = [{"number": number} for number in range(1_200)]
        assert await client.warm("oracle", inputs) == 1_200
        await until(lambda: "waiting=0" in repr(client))
        give_up_at = time.monotonic() + 10
        while not all([(await client.ask("oracle", one)).cache_status.hit for one in inputs[::100]]):
            assert time.monotonic() < give_up_at
        with pytest.raises(UnknownModel):
            await client.warm("nobody", inputs)
        with pytest.raises(InvalidArgument):
            await client.warm("oracle", [{"number": float("nan")}])


async def test_the_caller_s_trace_travels_with_the_request(servers: Servers, namespace: str) -> None:
    """W3C Trace Context, where there is a span; nothing where there is none."""
    queue = f"{namespace}predictions.traced"
    span = SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    async with (
        ForeignClient.connected(servers.amqp_url) as foreign,
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
    ):
        asked = await foreign.channel.declare_queue(queue, exclusive=True)
        with trace.use_span(NonRecordingSpan(span)):
            calls = [asyncio.create_task(client.predict("traced", {}, timeout_s=5))]
        calls.append(asyncio.create_task(client.predict("traced", {}, timeout_s=5)))
        seen: list[object] = []
        async with asyncio.timeout(5), asked.iterator(no_ack=True) as messages:
            async for message in messages:
                seen.append(message.headers.get("traceparent"))
                if len(seen) == len(calls):
                    break
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert sorted(seen, key=str) == [f"00-{0xABC:032x}-{0xDEF:016x}-01", None]


async def test_a_cancelled_call_leaves_nothing_behind(servers: Servers, namespace: str) -> None:
    """A hundred of them, at any moment; the client and its neighbours go on."""
    async with served(servers, namespace, max_in_flight=150) as client:
        before = len(asyncio.all_tasks())
        for delay_ms in range(10):
            calls = [
                asyncio.create_task(client.predict("oracle", {"number": number, "seconds": 0.2}))
                for number in range(10)
            ]
            neighbour = asyncio.create_task(client.predict("oracle", {"number": 1_000 + delay_ms}))
            await asyncio.sleep(delay_ms / 1000)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert await neighbour == {"square": (1_000 + delay_ms) ** 2}
        assert "waiting=0" in repr(client)
        await until(lambda: len(asyncio.all_tasks()) <= before)  # the flights that were begun end, as work does
        assert len(await client.predict_many("oracle", [{"number": n} for n in range(150)])) == 150  # all room is back


async def test_a_broker_that_restarts_under_ten_thousand_calls_loses_none_of_them(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path, report: Report
) -> None:
    """Every call ends in its own answer or in a typed error, within its time; later calls work."""
    endings: Counter[str] = Counter()
    with BrokerProcess.running(tmp_path / "rabbitmq") as broker:
        local = Servers(broker.url, servers.redis_url, "given")
        await asyncio.to_thread(broker.control, "stop_app")
        await asyncio.to_thread(broker.control, "start_app")
        with responder_process(local, namespace, "tests.models:oracle", RESPONDER_QUEUE_TYPE="classic"):
            async with PredictionClient(broker.url, namespace=namespace, max_in_flight=100) as client:

                async def call(number: int) -> None:
                    try:
                        answer = await client.predict("oracle", {"number": number}, timeout_s=60)
                    except PredictionError as error:
                        endings[error.code] += 1
                    else:
                        endings["ok" if answer == {"square": number**2} else "wrong"] += 1

                calls = [asyncio.create_task(call(number)) for number in range(10_000)]
                await until(lambda: endings["ok"] > 2_000, 30)
                broker.kill()
                began = time.monotonic()
                broker.start()
                await asyncio.gather(*calls)
                took_s = time.monotonic() - began
                assert await client.predict("oracle", {"number": 3}, timeout_s=20) == {"square": 9}
                assert "waiting=0" in repr(client)
    report("calls while the broker restarts", dict(endings) | {"seconds": round(took_s, 1)})
    assert endings.total() == 10_000
    assert endings["wrong"] == 0
    assert set(endings) <= {"ok", "OUTCOME_UNKNOWN", "UNKNOWN_MODEL"}
    assert endings["ok"] >= 9_900
    assert took_s < 55 * pace.now()


def test_two_hundred_threads_share_a_blocking_client(servers: Servers, namespace: str) -> None:
    """Each gets its own answers; errors are typed there too; closed, it says so."""
    wrong: list[object] = []
    with responder_process(servers, namespace, "tests.models:oracle"):
        with BlockingPredictionClient(servers.amqp_url, namespace=namespace) as client:

            def work(number: int) -> None:
                for turn in range(20):
                    one = number * 20 + turn
                    if client.predict("oracle", Task(number=one), output=Done) != Done(square=one**2):
                        wrong.append(one)

            threads = [threading.Thread(target=work, args=(number,)) for number in range(200)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not wrong
            assert client.ask("oracle", {"number": 3}).cache_status.hit
            assert client.predict_many("oracle", [{"number": 1}, {"number": 2}]) == [{"square": 1}, {"square": 4}]
            assert client.warm("oracle", [{"number": 10**6}]) == 1
            with pytest.raises(InvalidArgument):
                client.predict("oracle", {"number": "x"})
            with pytest.raises(UnknownModel):
                client.predict("nobody", {})
        for _ in range(2):
            with pytest.raises(NoBroker, match="closed"):
                client.predict("oracle", {"number": 3})
            client.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "prediction client"]


def test_a_blocking_client_that_is_closed_leaves_no_thread_waiting(servers: Servers, namespace: str) -> None:
    """Those that call it all the time end at once, each with a typed error."""
    endings: list[str] = []
    with responder_process(servers, namespace, "tests.models:oracle"):
        for _ in range(10):
            client = BlockingPredictionClient(servers.amqp_url, namespace=namespace, max_in_flight=5)
            begun = threading.Barrier(21)

            def work(number: int, client: BlockingPredictionClient = client, begun: threading.Barrier = begun) -> None:
                begun.wait()
                try:
                    while True:
                        client.predict("oracle", {"number": number, "seconds": 0.05})
                except PredictionError as error:
                    endings.append(error.code)

            with client:
                threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
                for thread in threads:
                    thread.start()
                begun.wait()
            for thread in threads:
                thread.join(5)
            assert not [thread for thread in threads if thread.is_alive()]
    assert len(endings) == 200
    assert set(endings) <= {"NO_BROKER", "OUTCOME_UNKNOWN"}


def test_a_blocking_client_without_a_broker_says_so(namespace: str) -> None:
    """And leaves no thread behind."""
    with (
        pytest.raises(NoBroker),
        BlockingPredictionClient("amqp://127.0.0.1:1/", namespace=namespace, connect_timeout_s=0.3),
    ):
        pytest.fail("it was connected")
    assert not [thread for thread in threading.enumerate() if thread.name == "prediction client"]


async def test_a_hundred_thousand_calls_leave_no_memory_behind(
    servers: Servers, namespace: str, tmp_path: Path, report: Report
) -> None:
    """What the process holds after 20,000 is what it holds after 100,000."""
    held_mb: list[float] = []
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)):
        async with PredictionClient(servers.amqp_url, namespace=namespace) as client:
            for _ in range(5):
                inputs = ({"number": number % 100} for number in range(20_000))
                assert len(await client.predict_many("oracle", inputs)) == 20_000
                held_mb.append(_resident_mb())
    assert set(recorded(tmp_path, "start")) == set(range(100))
    report(
        "a hundred thousand calls", {"MB after 20,000": round(held_mb[0], 1), "after 100,000": round(held_mb[-1], 1)}
    )
    assert held_mb[-1] < held_mb[0] * 1.05


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


async def test_one_lost_connection_fails_no_call(servers: Servers, namespace: str) -> None:
    """As many calls as a client has in flight by default, all of them at work when its replies' connection is cut."""
    async with (
        Proxy.running(servers.amqp_url) as proxy,
        embedded(oracle, settings(servers, namespace)),
        PredictionClient(proxy.url(servers.amqp_url), namespace=namespace) as client,
    ):
        calls = [
            asyncio.ensure_future(client.predict("oracle", {"number": 3, "seconds": 1.5}, timeout_s=30))
            for _ in range(1000)
        ]
        await until(lambda: "waiting=1000" in repr(client) and not client._session.channel.outbox.unconfirmed)
        proxy.cut()
        answers = await asyncio.gather(*calls, return_exceptions=True)
    assert Counter(map(repr, answers)) == {"{'square': 9}": 1000}


async def test_a_cancelled_call_is_not_sent_any_more(servers: Servers, namespace: str) -> None:
    """While the way to the broker is held: what was cancelled there costs no memory, and no model call later."""
    model = GatedModel(is_open=True)
    async with (
        Proxy.running(servers.amqp_url) as proxy,
        embedded(model.predictor(), settings(servers, namespace)),
        PredictionClient(proxy.url(servers.amqp_url), namespace=namespace, retries=NO_RETRIES) as client,
    ):
        for keeps_holding in (False, True):
            before = len(model.calls)
            proxy.hold("up")
            for number in range(300):
                call = asyncio.ensure_future(client.predict("echo", {"text": f"{number} {'x' * 100_000}"}))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                call.cancel()
            if keeps_holding:
                await until(lambda: client._session.channel.outbox.unconfirmed < 150)
            proxy.release("up")
            await client.predict("echo", {"text": f"last, {keeps_holding}"}, timeout_s=30)
            assert len(model.calls) - before < 150


async def test_who_leaves_a_client_can_be_cancelled(servers: Servers) -> None:
    """The cancellation is not swallowed, and both connections end."""
    client = PredictionClient(servers.amqp_url)

    async def use() -> None:
        async with client:
            inside.set()

    inside = asyncio.Event()
    task = asyncio.ensure_future(use())
    await inside.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not client._session.channel.outbox.is_up
    assert not client._session.channel.inbox.is_consuming
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), PredictionClient(servers.amqp_url):
            await asyncio.Event().wait()


async def test_why_nothing_arrives_is_said(servers: Servers, namespace: str) -> None:
    """An exchange that is not there, and a user who is somebody else: `warm` ends as well."""
    for options, why in (({"exchange": f"{namespace}nowhere"}, "no exchange"), ({"user_id": "somebody"}, "user_id")):
        async with PredictionClient(servers.amqp_url, namespace=namespace, **options) as client:  # type: ignore[arg-type]
            with pytest.raises(PredictionError) as failed:
                await client.predict("oracle", {"number": 1}, timeout_s=2)
            if isinstance(failed.value, DeadlineExceeded):
                assert why in failed.value.message
            async with asyncio.timeout(8):
                with pytest.raises(PredictionError):
                    await client.warm("oracle", [{"number": 1}], timeout_s=1)


async def test_what_may_have_run_is_not_called_failed(servers: Servers, namespace: str) -> None:
    """The first attempt was at work when all was lost; the second one finds no queue."""
    async with Proxy.running(servers.amqp_url) as proxy, ForeignClient.connected(servers.amqp_url) as other:
        queue = f"{namespace}predictions.gone"
        await other.channel.declare_queue(queue, durable=True)
        async with PredictionClient(proxy.url(servers.amqp_url), namespace=namespace) as client:
            call = asyncio.ensure_future(client.predict("gone", {"number": 1}, timeout_s=20))
            assert await other.depth(queue, 1) == 1
            await other.channel.queue_delete(queue)
            proxy.cut()
            with pytest.raises(OutcomeUnknown, match="no queue takes requests"):
                await call
