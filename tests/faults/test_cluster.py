"""Three RabbitMQ nodes, and one of them dies under load."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess
from prediction_responder.operate.declare import declare
from tests.books import Fleet, Report, Requester
from tests.proxy import Proxy
from tests.real import ForeignClient, settings

pytestmark = [pytest.mark.servers, pytest.mark.own_servers, pytest.mark.timeout(300)]

RECOVERED_S = 20.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[BrokerProcess]]:
    """Three nodes that know each other."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:
        first = stack.enter_context(BrokerProcess.running(folder / "node0"))
        nodes = [first]
        for number in (1, 2):
            node = stack.enter_context(BrokerProcess.prepared(folder / f"node{number}", beside=first))
            node.start()
            node.join(first)
            nodes.append(node)
        yield nodes


@pytest.mark.parametrize("victim", ["the leader of the queue", "the node that all are connected to"])
async def test_a_node_that_is_killed_loses_nothing(
    servers: Servers, cluster: list[BrokerProcess], namespace: str, tmp_path: Path, report: Report, victim: str
) -> None:
    """Requests, and replies in a durable queue, go on when the others have elected another leader."""
    requests, (leader, entrance, third) = 2_000, cluster
    await declare(settings(Servers(leader.url, servers.redis_url, "given"), namespace), ["fresh"])
    led = await asyncio.to_thread(leader.control, "-q", "list_queues", "name", "leader", "members", "--formatter=json")
    [found] = [one for one in json.loads(led) if one["name"] == f"{namespace}predictions.fresh"]
    assert (found["leader"], len(found["members"])) == (leader.node, 3)
    async with Proxy.running(entrance.port, others=[third.port]) as balancer:
        own = Servers(balancer.url(entrance.url), servers.redis_url, "given")
        with ExitStack() as stack:
            chosen = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_PENDING": "1000"}
            running = Fleet.running(own, namespace, "tests.models:fresh", 2, **chosen)
            fleet = await asyncio.to_thread(stack.enter_context, running)
            queue, back = f"{namespace}predictions.fresh", f"{namespace}back"
            async with Requester.connected(own.amqp_url, queue, back) as requester:
                books = requester.books
                for number in range(requests):
                    requester.ask(number, seconds=0.02)
                    if number % 20 == 0:
                        await asyncio.sleep(0.02)
                    if number == requests // 2:
                        assert await requester.until(lambda books: len(books.answered) > 100, 20)
                        (leader if victim == "the leader of the queue" else entrance).kill()
                        killed_at, asked_before = time.monotonic(), len(books.asked)
                assert await requester.until(
                    lambda books: any(int(one) > asked_before for one in books.answered), RECOVERED_S
                ), books.row()
                recovered_s = time.monotonic() - killed_at
                assert await requester.all_answered(60), books.row()
            assert fleet.deaths == 0
            await asyncio.to_thread(stack.close)
        # In this thread: the kernel ends the node with the thread that has started it.
        (leader if victim == "the leader of the queue" else entrance).start()
        async with ForeignClient.connected(third.url) as client:
            dead = await client.depth(f"{namespace}predictions.dead")
    row = books.row(dead) | {"dead-lettered": dead, "recovered s": round(recovered_s, 1)}
    report(f"kill -9 of {victim}", row)
    assert (row["lost"], row["wrong"], row["unexpected"], dead) == (0, 0, 0, 0)
    assert books.codes == {"ok": requests}
    assert books.not_sent == {}
