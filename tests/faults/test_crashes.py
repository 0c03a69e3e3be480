"""Processes that are killed, anywhere: nothing is lost, nothing is wrong, and little is computed twice."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from deploy.found import Servers
from tests.books import Fleet, Report, Requester
from tests.models import events
from tests.real import ForeignClient, until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(580)]

UNSTORED_S = 0.25  # a process that is killed so soon after its model has finished may not have stored the answer


async def test_kill_9_of_random_replicas_under_load(
    servers: Servers,
    namespace: str,
    tmp_path: Path,
    report: Report,
    full: bool,  # noqa: FBT001
) -> None:
    """Forty times in 10,000 requests over 2,000 keys (a fifth of that in the quick form)."""
    kills, requests, keys = (40, 10_000, 2_000) if full else (8, 2_000, 400)
    chance = random.Random(1)
    killed: dict[int, float] = {}
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_PENDING": "1000"}
    with Fleet.running(servers, namespace, "tests.models:fresh", 3, **environment) as fleet:
        async with Requester.connected(servers.amqp_url, f"{namespace}predictions.fresh") as requester:
            books = requester.books
            for _ in range(kills):
                answered = len(books.answered)
                for _ in range(requests // kills):
                    requester.ask(chance.randrange(keys), seconds=0.05)
                await requester.until(lambda books, least=answered + 20: len(books.answered) >= least, 30)  # type: ignore[misc]
                killed[fleet.kill_one(chance)] = time.monotonic()
                await until(lambda: fleet.deaths == len(killed), 30)
            assert await requester.all_answered(60), books.row()
        async with ForeignClient.connected(servers.amqp_url) as client:
            dead = await client.depth(f"{namespace}predictions.dead")
    finished = events(tmp_path, "finish")
    extra = Counter(event.number for event in finished) - Counter({event.number for event in finished})
    unstored = Counter(one.number for one in finished if -1 < killed.get(one.pid, one.at + 9) - one.at < UNSTORED_S)
    row = books.row(dead) | {"kills": kills, "extra completions": extra.total(), "dead-lettered": dead}
    report("kill -9 of random replicas", row)
    assert (row["lost"], row["wrong"], row["unexpected"], dead) == (0, 0, 0, 0)
    assert books.codes == {"ok": requests}
    assert extra <= unstored, "an answer was computed again although its process had time to store it"
