"""The broker is killed, and replicas are told to stop: what was confirmed is answered."""

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess
from tests.books import Fleet, Report, Requester
from tests.models import events
from tests.real import ForeignClient, responder_process, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(580)]


async def test_a_broker_that_is_killed_loses_nothing_that_it_had_confirmed(
    servers: Servers, namespace: str, tmp_path: Path, report: Report
) -> None:
    """Requests and reply queues are durable: with everything in the air, a kill -9 and a restart cost time only."""
    requests = 2_000
    with BrokerProcess.running(tmp_path / "rabbitmq") as broker:
        own = Servers(broker.url, servers.redis_url, "given")
        environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_PENDING": "1000"}
        with Fleet.running(own, namespace, "tests.models:fresh", 2, **environment) as fleet:
            async with Requester.connected(
                broker.url, f"{namespace}predictions.fresh", f"{namespace}back"
            ) as requester:
                books = requester.books
                # RabbitMQ 3.10 writes the names of new quorum queues down after three minutes, or when it stops. Killed
                # before that it does not find them again (`names.dets not properly closed`), whoever uses them.
                await asyncio.to_thread(broker.control, "stop_app")
                await asyncio.to_thread(broker.control, "start_app")
                await until(lambda: [one.probe("/readyz") for one in fleet.them] == [200, 200], 20)
                await requester.inbox.consuming()
                for number in range(requests):
                    requester.ask(number, seconds=0.02)
                    if number % 20 == 0:
                        await asyncio.sleep(0.01)
                    if number == requests // 2:
                        assert await requester.until(lambda books: len(books.answered) > 100, 20)
                        began = time.monotonic()
                        broker.kill()
                        await asyncio.to_thread(broker.start)
                assert await requester.all_answered(60), books.row()
                recovered_s = time.monotonic() - began
            assert fleet.deaths == 0
        async with ForeignClient.connected(broker.url) as client:
            dead = await client.depth(f"{namespace}predictions.dead")
    row = books.row(dead) | {"dead-lettered": dead, "recovered s": round(recovered_s, 1)}
    report("kill -9 of the broker", row)
    assert (row["lost"], row["wrong"], row["unexpected"], dead) == (0, 0, 0, 0)
    assert books.codes == {"ok": len(books.answered)}
    assert len(books.answered) == len(books.confirmed)
    assert books.not_sent == {}


async def test_sigterm_under_load_loses_nothing(
    servers: Servers,
    namespace: str,
    tmp_path: Path,
    report: Report,
    full: bool,  # noqa: FBT001
) -> None:
    """Fifty times (five in the quick form), with work under way and work waiting: exit status 0 in time."""
    stops, grace_s = (50, 5.0) if full else (5, 5.0)
    chance, numbers, slowest_s = random.Random(2), iter(range(10**6)), 0.0
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_GRACE_S": str(grace_s), "RESPONDER_PREFETCH": "200"}
    model = "tests.models:limited"
    with (
        responder_process(servers, namespace, model, **environment) as one,
        responder_process(servers, namespace, model, **environment) as other,
    ):
        async with Requester.connected(servers.amqp_url, f"{namespace}predictions.limited") as requester:
            books = requester.books
            for _ in range(stops):
                answered = len(books.answered)
                for _ in range(100):
                    requester.ask(next(numbers), seconds=0.02)
                assert await requester.until(lambda books, least=answered + 5: len(books.answered) >= least, 30)  # type: ignore[misc]
                victim = chance.choice((one, other))
                began = time.monotonic()
                victim.signal(signal.SIGTERM)
                assert await asyncio.to_thread(victim.wait, grace_s + 1) == 0
                slowest_s = max(slowest_s, time.monotonic() - began)
                await asyncio.to_thread(victim.start)
            assert await requester.all_answered(60), books.row()
        async with ForeignClient.connected(servers.amqp_url) as client:
            dead = await client.depth(f"{namespace}predictions.dead")
        await until(lambda: len(events(tmp_path, "finish")) == 100 * stops, 5)
    row = books.row(dead) | {"stops": stops, "dead-lettered": dead, "slowest stop s": round(slowest_s, 2)}
    report("SIGTERM under load", row)
    assert (row["lost"], row["wrong"], row["unexpected"], row["duplicated (wire)"], dead) == (0, 0, 0, 0, 0)
    assert books.codes == {"ok": 100 * stops}
