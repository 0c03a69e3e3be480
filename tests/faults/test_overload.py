"""More than can be done, and too late: what is refused costs little, and what can be done is done."""

import asyncio
import itertools
import signal
import time
from pathlib import Path

import pytest

from deploy.found import Servers
from tests.books import Books, Fleet, Report, Requester
from tests.models import events, recorded
from tests.pace import Pace
from tests.real import ForeignClient, responder_process, until

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(200)]

CALL_S, AT_ONCE = 0.04, 4


async def test_requests_that_are_too_late_are_drained_fast_and_call_no_model(
    pace: Pace,
    servers: Servers,
    namespace: str,
    tmp_path: Path,
    report: Report,
    full: bool,  # noqa: FBT001
) -> None:
    """A backlog whose deadlines have passed, after a pause of the responder: 504 for each, 2,000 a second and more."""
    requests = 20_000 if full else 5_000
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)) as responder:
        async with Requester.connected(servers.amqp_url, f"{namespace}predictions.oracle") as requester:
            books = requester.books
            responder.signal(signal.SIGSTOP)
            for number in range(requests):
                requester.ask(number, deadline_ms=-1)
                if number % 100 == 0:
                    await asyncio.sleep(0)  # a turn for the socket
            assert await requester.until(lambda books: len(books.confirmed) == requests, 30)
            began = time.monotonic()
            responder.signal(signal.SIGCONT)
            done = f'responder_reply_fates_total{{fate="confirmed"}} {requests:.1f}'
            await until(lambda: done in responder.metrics(), 30)
            took_s = time.monotonic() - began
        async with ForeignClient.connected(servers.amqp_url) as client:
            assert await client.depth(f"{namespace}predictions.oracle") == 0
    # A reply lives for what was left of its request's time, at least a millisecond; many were not fetched by then.
    report("all too late", {"requests": requests, "drained per second": round(requests / took_s)})
    assert books.codes.keys() == {"DEADLINE_EXCEEDED"}
    assert recorded(tmp_path, "start") == []
    assert requests / took_s > 2_000 / pace.now()


async def _all_replied(books: Books, fleet: Fleet) -> None:
    """Every request is answered, or its reply confirmed: one expires with its request, perhaps before it is fetched."""
    replied = f'responder_reply_fates_total{{fate="confirmed"}} {len(books.asked):.1f}'
    await until(lambda: not books.open or replied in fleet.them[0].metrics())


async def test_ten_times_the_capacity_leaves_the_capacity(
    pace: Pace,
    servers: Servers,
    namespace: str,
    tmp_path: Path,
    report: Report,
    full: bool,  # noqa: FBT001
) -> None:
    """Open loop, every key new, each with a second to wait: what fits is answered, the rest hears when to come."""
    seconds = 60 if full else 8
    # The model is to be the limit: slower on a slow machine, four times as slow beside other tests (short form).
    slower = pace.now() * (1 if full else 4)
    numbers, capacity, call_s = itertools.count(), AT_ONCE / CALL_S / slower, CALL_S * slower
    with Fleet.running(
        servers, namespace, "tests.models:limited", 1, RESPONDER_PENDING="64", ORACLE_FOLDER=str(tmp_path)
    ) as fleet:
        async with Requester.connected(servers.amqp_url, f"{namespace}predictions.limited") as requester:
            books, loop = requester.books, asyncio.get_running_loop()

            async def offer(per_second: float, for_s: float) -> float:
                """Ask at this rate; the rate of good answers meanwhile, by the oracle."""
                began, good = loop.time(), len(events(tmp_path, "finish"))
                for index in range(round(per_second * for_s)):
                    await asyncio.sleep(max(0.0, began + index / per_second - loop.time()))
                    requester.ask(next(numbers), seconds=call_s, deadline_ms=round(1000 * slower))
                return (len(events(tmp_path, "finish")) - good) / (loop.time() - began)

            alone = await offer(1.2 * capacity, 4)
            await _all_replied(books, fleet)
            before_mb, ok = fleet.memory_mb(), books.codes["ok"]
            under_load = await offer(10 * capacity, seconds)
            after_mb, good = fleet.memory_mb(), books.codes["ok"] - ok
            ended = loop.time()
            await _all_replied(books, fleet)
            async with ForeignClient.connected(servers.amqp_url) as client:
                recovered_s = loop.time() - ended
                await client.ask(f"{namespace}predictions.limited", b'{"number": -1, "seconds": 0.04}')
                alone_again_s = loop.time() - ended - recovered_s
            hints = sorted(books.retry_after_ms)
            assert fleet.deaths == 0
    report(
        "ten times the capacity",
        books.row()
        | {
            "goodput / capacity": round(under_load / alone, 2),
            **books.codes,
            "replies expired": len(books.open),
            "hint, median ms": hints[len(hints) // 2],
            "memory": round(after_mb / before_mb, 2),
            "recovered s": round(recovered_s, 2),
        },
    )
    assert (books.wrong, books.unexpected) == (0, 0)
    assert books.codes.keys() <= {"ok", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert under_load >= 0.9 * alone
    assert good + len(books.open) >= 0.9 * alone * seconds
    assert after_mb < 1.2 * before_mb
    assert recovered_s < 10 * pace.now()
    assert alone_again_s < 0.5 * pace.now()
    assert 1 <= hints[0] <= hints[-1] < 2_000 * slower
