"""Processes that are killed, anywhere: nothing is lost, nothing is wrong, and little is computed twice."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from deploy.found import Servers
from tests.books import Fleet, Report, Requester
from tests.crash_at import POINTS
from tests.models import events, recorded
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


@pytest.mark.parametrize("point", POINTS)
async def test_kill_9_at_every_point_of_a_request_s_way(
    servers: Servers,
    namespace: str,
    tmp_path: Path,
    report: Report,
    point: str,
    full: bool,  # noqa: FBT001
) -> None:
    """Forty requests (three in the quick form), each of which kills its process once: all are answered."""
    requests = 40 if full else 3
    crashes = tmp_path / "crashes"
    crashes.mkdir()
    environment = {
        "ORACLE_FOLDER": str(tmp_path),
        "RESPONDER_LEASE_S": "0.5",
        "CRASH_POINT": point,
        "CRASH_FOLDER": str(crashes),
    }
    with Fleet.running(servers, namespace, "tests.models:fresh", 3, module="tests.crash_at", **environment) as fleet:
        async with Requester.connected(servers.amqp_url, f"{namespace}predictions.fresh") as requester:
            books = requester.books
            for number in range(requests):  # one after the other, so that each dies of its own crash
                requester.ask(number, seconds=0.01)
                assert await requester.until(lambda books, all_=number + 1: len(books.answered) == all_, 30)  # type: ignore[misc]
            assert await requester.all_answered(10), books.row()
            await until(lambda: len(list(crashes.iterdir())) == requests, 10)
            if POINTS.index(point) >= POINTS.index("written"):
                # The reply had left, and the request is answered again; so may be one whose acknowledgement waited.
                assert await requester.until(lambda books: books.duplicated >= requests, 20), books.row()
        async with ForeignClient.connected(servers.amqp_url) as client:
            dead = await client.depth(f"{namespace}predictions.dead")
    starts = Counter(event.number for event in events(tmp_path, "start"))
    row = books.row(dead) | {"deaths": fleet.deaths, "model starts": starts.total(), "dead-lettered": dead}
    report(f"kill -9, {point}", row)
    assert (row["lost"], row["wrong"], row["unexpected"], dead) == (0, 0, 0, 0)
    assert books.codes == {"ok": requests}
    if POINTS.index(point) >= POINTS.index("stored"):
        assert starts == Counter(range(requests)), "called again although the answer had been stored"
    assert starts.total() <= 2 * requests


async def test_one_input_that_kills_its_process_hurts_no_other(
    servers: Servers, namespace: str, tmp_path: Path, report: Report
) -> None:
    """Amid 500 good ones, on three replicas that restart: three deaths, one dead letter, 500 answers."""
    good = range(1, 501)
    with Fleet.running(servers, namespace, "tests.models:deadly", 3, ORACLE_FOLDER=str(tmp_path)) as fleet:
        async with Requester.connected(servers.amqp_url, f"{namespace}predictions.deadly") as requester:
            books = requester.books
            for number in good:
                requester.ask(number, seconds=0.2)
                if number == good[250]:
                    requester.ask(0, seconds=0.1, ending="kill", identifier=b"killer")
            assert await requester.all_answered(60), books.row()
        async with ForeignClient.connected(servers.amqp_url) as client:
            dead = await client.depth(f"{namespace}predictions.dead", 1)
            assert await client.depth(f"{namespace}predictions.deadly") == 0
        await until(lambda: fleet.deaths == 3, 5)
    starts = Counter(recorded(tmp_path, "start"))
    row = books.row() | {"deaths": fleet.deaths, "dead-lettered": dead, "model starts": starts.total()}
    report("one input that kills its process", row)
    assert (row["lost"], row["wrong"], row["unexpected"], dead) == (0, 0, 0, 1)
    assert books.answered.pop(b"killer") == "MODEL_CRASHED"
    assert books.codes == {"ok": len(good)}
    assert (fleet.deaths, starts[0]) == (3, 3)
