"""Hostile and unlucky traffic: consuming goes on and nobody else is hurt."""

import asyncio
import time
from pathlib import Path

import aio_pika
import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess
from prediction_client import NO_RETRIES, DeadlineExceeded, NoBroker, OutcomeUnknown, PredictionClient, PredictionError
from prediction_responder.cache.redis_link import InvalidCacheUrl
from tests.fakes import GatedModel
from tests.models import oracle
from tests.pace import Pace
from tests.real import ForeignClient, embedded, settings, until

pytestmark = pytest.mark.servers


async def test_a_trace_header_as_large_as_a_frame_is_not_echoed(servers: Servers, namespace: str) -> None:
    """It would close the connection of the replies, and with it everybody's."""
    async with (
        embedded(oracle, settings(servers, namespace)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        queue = f"{namespace}predictions.oracle"
        for number in range(50):
            await client.send(queue, b'{"number": %d}' % number, correlation_id=f"good {number}")
            if number % 10 == 0:
                headers = {"traceparent": "x" * 130_900}
                await client.send(queue, b'{"number": %d}' % number, correlation_id=f"bad {number}", headers=headers)
        replies = [await client.reply() for _ in range(55)]
    assert len({reply.correlation_id for reply in replies}) == 55
    assert not any("traceparent" in reply.headers for reply in replies)


async def test_a_memory_alarm_delays_replies_and_loses_none(tmp_path: Path, namespace: str) -> None:
    """While the broker takes no messages, replies wait; their requests stay unsettled."""
    with BrokerProcess.running(tmp_path / "rabbitmq") as broker:
        local = Servers(broker.url, "memory://", "binaries")
        model = GatedModel()
        async with (
            embedded(model.predictor(), settings(local, namespace)) as responder,
            ForeignClient.connected(broker.url) as client,
        ):
            for number in range(60):
                await client.send(f"{namespace}predictions.echo", b'{"text":"%d"}' % number, correlation_id=str(number))
            await until(lambda: len(model.calls) == 60)
            await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "absolute", "1000")
            model.gate.set()
            await until(lambda: responder.unconfirmed == 60)
            assert responder.unsettled == 60
            await asyncio.to_thread(broker.control, "set_vm_memory_high_watermark", "0.4")
            assert {(await client.reply()).correlation_id for _ in range(60)} == {str(number) for number in range(60)}
            await until(lambda: not responder.unsettled)


async def test_a_forged_reply_hurts_no_other_call(servers: Servers, namespace: str) -> None:
    """Odd numbers in headers, a body that is no reply, an identifier of nobody."""
    model = GatedModel(is_open=True)
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
        ForeignClient.connected(servers.amqp_url) as forger,
    ):
        address = repr(client).split()[1]
        odd = {
            "cache-status": "responder; hit; ttl=--5",
            "age": "\u00b2",
            "duration-ms": "9" * 5000,
            "retry-after-ms": "-",
        }
        for body in (b'{"result": 1}', b"nonsense", b""):
            await forger.send(address, body, headers=odd, correlation_id="1")
        assert await client.predict("echo", {"text": "a"}, timeout_s=10) == {"text": "a"}


async def test_calls_in_flight_learn_at_once_that_their_connection_is_lost(
    pace: Pace, tmp_path: Path, namespace: str
) -> None:
    """Their reply queue is gone with it: the outcome is unknown, and no call hangs; later calls work."""
    with BrokerProcess.running(tmp_path / "rabbitmq") as broker:
        local = Servers(broker.url, "memory://", "binaries")
        model = GatedModel()
        async with (
            embedded(model.predictor(), settings(local, namespace)),
            PredictionClient(broker.url, namespace=namespace, retries=NO_RETRIES) as client,
        ):
            calls = [asyncio.create_task(client.predict("echo", {"text": "a"}, timeout_s=30)) for _ in range(10)]
            await model.begun.wait()
            began = time.monotonic()
            await asyncio.to_thread(broker.control, "close_all_connections", "a test")
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, OutcomeUnknown) for result in results)
            assert time.monotonic() - began < 5 * pace.now()
            model.gate.set()
            assert await client.predict("echo", {"text": "a"}, timeout_s=20) == {"text": "a"}


async def test_a_closed_client_answers_at_once(servers: Servers, namespace: str) -> None:
    """Calls in flight end, and new ones are refused."""
    model = GatedModel()
    async with embedded(model.predictor(), settings(servers, namespace)):
        async with PredictionClient(servers.amqp_url, namespace=namespace) as client:
            call = asyncio.create_task(client.predict("echo", {"text": "a"}, timeout_s=30))
            await model.begun.wait()
        with pytest.raises(OutcomeUnknown):
            await call
        with pytest.raises(NoBroker):
            await client.predict("echo", {"text": "a"}, timeout_s=30)
        model.gate.set()


async def test_a_client_without_broker_says_so(namespace: str) -> None:
    """Within its patience, and why."""
    with pytest.raises(NoBroker, match=r"cannot be reached: .*(refused|Connect call failed)"):
        async with PredictionClient("amqp://guest:canary@127.0.0.1:1/", connect_timeout_s=0.5) as client:
            await client.predict("echo", {})


async def test_a_late_reply_is_dropped(servers: Servers, namespace: str) -> None:
    """The call has ended in its deadline; the next one gets its own answer."""
    model = GatedModel()
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
    ):
        with pytest.raises(DeadlineExceeded):
            await client.predict("echo", {"text": "late"}, timeout_s=0.2)
        model.gate.set()
        assert await client.predict("echo", {"text": "a"}, timeout_s=10) == {"text": "a"}
        assert "waiting=0" in repr(client)


async def test_inputs_that_no_broker_takes_are_refused_before_they_are_sent(servers: Servers, namespace: str) -> None:
    """Typed, and nothing is written."""
    async with PredictionClient(servers.amqp_url, namespace=namespace) as client:
        for model, features, code in (
            ("echo", {"text": "x" * (17 * 2**20)}, "PAYLOAD_TOO_LARGE"),
            ("m" * 300, {}, "UNKNOWN_MODEL"),
        ):
            with pytest.raises(PredictionError) as refused:
                await client.predict(model, features, timeout_s=10)
            assert refused.value.code == code


async def test_a_redis_url_with_an_unknown_option_is_refused_at_the_start(servers: Servers, namespace: str) -> None:
    """Not at the first request."""
    chosen = settings(servers, namespace, REDIS_URL=f"{servers.redis_url}?foo=canary")
    with pytest.raises(InvalidCacheUrl, match="foo") as refused:
        async with embedded(oracle, chosen):
            pass
    assert "canary" not in str(refused.value)


async def test_a_deleted_queue_is_declared_and_consumed_again(servers: Servers, namespace: str) -> None:
    """The broker cancels the consumer; soon after, requests are answered again."""
    async with (
        embedded(oracle, settings(servers, namespace)) as responder,
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        queue = f"{namespace}predictions.oracle"
        await client.ask(queue, b'{"number": 3}')
        connection = await aio_pika.connect(servers.amqp_url)
        async with connection:
            await (await connection.channel()).queue_delete(queue)
        await until(lambda: responder.missing != [])
        await until(lambda: responder.missing == [])
        _, answer = await client.ask(queue, b'{"number": 4}')
        assert answer == {"result": {"square": 16}}
