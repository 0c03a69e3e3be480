"""Stopping, and being stopped: nothing is lost."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess
from tests.models import recorded
from tests.pace import Pace
from tests.real import ForeignClient, ResponderProcess, responder_process, until

pytestmark = pytest.mark.servers


async def send_many(client: ForeignClient, queue: str, count: int, seconds: float) -> None:
    """Distinct requests, each of which takes some time."""
    for number in range(count):
        body = b'{"number": %d, "seconds": %f}' % (number, seconds)
        await client.send(queue, body, correlation_id=str(number), delivery_mode=2)


async def answers(client: ForeignClient, wanted: set[str], timeout_s: float) -> None:
    """Wait until each of these has been answered; a request may be answered twice after a crash."""
    left = set(wanted)
    async with asyncio.timeout(timeout_s):
        while left:
            left.discard(str((await client.reply(timeout_s)).correlation_id))


async def test_sigterm_with_two_hundred_in_flight_loses_nothing(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """All answered or back in the queue, none dead-lettered, exit status 0 within the grace period."""
    queue = f"{namespace}predictions.oracle"
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)) as responder:
        async with ForeignClient.connected(servers.amqp_url) as client:
            await send_many(client, queue, 200, 0.3)
            await until(lambda: recorded(tmp_path, "start"))
            responder.signal(signal.SIGTERM)
            began = time.monotonic()
            status = await asyncio.to_thread(responder.wait, 30)
            assert status == 0
            assert time.monotonic() - began < 30
            answered = await client.drain()
            left = await client.depth(queue, 200 - len(answered))
            assert len(answered) + left == 200
            assert answered
            assert await client.depth(f"{namespace}predictions.dead") == 0
            await asyncio.to_thread(responder.start)
            await answers(client, {str(number) for number in range(200)} - answered, 30)
    finished = recorded(tmp_path, "finish")
    assert sorted(finished) == list(range(200))


async def test_kill_9_with_two_hundred_in_flight_is_answered_after_a_restart(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """The broker has every request until its reply is confirmed."""
    queue = f"{namespace}predictions.oracle"
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)) as responder:
        async with ForeignClient.connected(servers.amqp_url) as client:
            await send_many(client, queue, 200, 0.05)
            first = str((await client.reply(20)).correlation_id)
            responder.signal(signal.SIGKILL)
            await asyncio.to_thread(responder.wait, 10)
            await asyncio.to_thread(responder.start)
            await answers(client, {str(number) for number in range(200)} - {first}, 30)
    assert set(recorded(tmp_path, "finish")) == set(range(200))


async def test_the_probes_tell_the_truth(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """Alive from the start, ready while it consumes, not ready while it drains."""
    queue = f"{namespace}predictions.oracle"
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)) as responder:
        assert (responder.probe("/livez"), responder.probe("/readyz")) == (200, 200)
        async with ForeignClient.connected(servers.amqp_url) as client:
            await client.send(queue, b'{"number": 1, "seconds": 1.5}')
            await until(lambda: recorded(tmp_path, "start"))
            responder.signal(signal.SIGTERM)
            await until(lambda: responder.probe("/readyz") == 503)
            assert await asyncio.to_thread(responder.probe, "/livez") == 200
            assert (await client.reply()).body == b'{"result":{"square":1}}'
            assert await asyncio.to_thread(responder.wait, 20) == 0


async def test_what_outlasts_the_grace_period_goes_back_to_the_queue(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """A model that takes longer than the grace: exit in time, another status, and the request is not lost."""
    queue = f"{namespace}predictions.oracle"
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_GRACE_S": "0.5"}
    with responder_process(servers, namespace, "tests.models:oracle", **environment) as responder:
        async with ForeignClient.connected(servers.amqp_url) as client:
            await client.send(queue, b'{"number": 1, "seconds": 4}', delivery_mode=2)
            await until(lambda: recorded(tmp_path, "start"))
            responder.signal(signal.SIGTERM)
            began = time.monotonic()
            assert await asyncio.to_thread(responder.wait, 10) == 1
            assert time.monotonic() - began < 3 * pace.now()
            assert await client.depth(queue, 1) == 1


async def test_metrics_count_what_happened(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """Replies by outcome and cache status, and model calls."""
    queue = f"{namespace}predictions.oracle"
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)) as responder:
        async with ForeignClient.connected(servers.amqp_url) as client:
            for body in (b'{"number": 1}', b'{"number": 1}', b"{"):
                await client.ask(queue, body)
        text = responder.metrics()
    for line in (
        'responder_replies_total{cache="miss",model="oracle",outcome="ok"} 1.0',
        'responder_replies_total{cache="hit",model="oracle",outcome="ok"} 1.0',
        'responder_replies_total{cache="none",model="oracle",outcome="INVALID_ARGUMENT"} 1.0',
        'responder_model_calls_total{model="oracle",outcome="ok"} 1.0',
        'responder_reply_fates_total{fate="confirmed"} 3.0',
    ):
        assert line in text


async def test_a_hung_blocking_model_cannot_hold_the_exit(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """Its thread cannot be stopped; the process ends all the same, and the request is not lost."""
    queue = f"{namespace}predictions.hung"
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_GRACE_S": "0.5"}
    with responder_process(servers, namespace, "tests.models:hung", **environment) as responder:
        async with ForeignClient.connected(servers.amqp_url) as client:
            await client.send(queue, b'{"number": 1, "seconds": 30}', delivery_mode=2)
            await until(lambda: recorded(tmp_path, "start"))
            responder.signal(signal.SIGTERM)
            assert await asyncio.to_thread(responder.wait, 5) == 1
            assert await client.depth(queue, 1) == 1


async def test_a_responder_that_starts_before_its_broker_waits_for_it(namespace: str, tmp_path: Path) -> None:
    """Alive, not ready, and answering soon after the broker is there; and again after the broker was stopped."""
    with BrokerProcess.prepared(tmp_path / "rabbitmq") as broker:
        urls = {"AMQP_URL": broker.url, "REDIS_URL": "memory://", "RESPONDER_NAMESPACE": namespace}
        responder = ResponderProcess("tests.models:oracle", urls)

        async def answers_again() -> None:
            await until(lambda: responder.probe("/readyz") == 200)
            async with ForeignClient.connected(broker.url) as client:
                _, answer = await client.ask(f"{namespace}predictions.oracle", b'{"number": 3}')
                assert answer == {"result": {"square": 9}}

        try:
            responder.launch()
            await until(lambda: responder.probe("/livez") == 200)
            assert responder.probe("/readyz") == 503
            await asyncio.to_thread(broker.start)
            await answers_again()
            await asyncio.to_thread(broker.control, "stop_app")
            await until(lambda: responder.probe("/readyz") == 503)
            await asyncio.to_thread(broker.control, "start_app")
            await answers_again()
            responder.signal(signal.SIGTERM)
            assert await asyncio.to_thread(responder.wait, 10) == 0
        finally:
            responder.end()


async def test_a_second_signal_ends_at_once_and_loses_nothing(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """The broker has what was unfinished."""
    queue = f"{namespace}predictions.oracle"
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)) as responder:
        async with ForeignClient.connected(servers.amqp_url) as client:
            await client.send(queue, b'{"number": 1, "seconds": 4}', delivery_mode=2)
            await until(lambda: recorded(tmp_path, "start"))
            responder.signal(signal.SIGTERM)
            await until(lambda: responder.probe("/readyz") == 503)
            responder.signal(signal.SIGTERM)
            assert await asyncio.to_thread(responder.wait, 3) == 1
            assert await client.depth(queue, 1) == 1
