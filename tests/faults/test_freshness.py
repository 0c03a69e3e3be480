"""Hot answers while the model is slow, and old ones while it fails: three replicas, a real load, and time."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from deploy.found import Servers
from prediction_client import NO_RETRIES, PredictionClient, PredictionError
from tests.models import Task, events
from tests.pace import Pace
from tests.real import replicas

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(120)]

CACHED = "max-stale=9, only-if-cached"
MODEL_S, TTL_S, PER_SECOND = 1.0, 4.0, 500
SHORTEST_LIFE_S = 0.9 * TTL_S
EARLY_S = 1.5 * MODEL_S  # see `responder.freshness.wants_refresh`


async def test_a_hot_key_never_waits_for_its_model_after_the_first_answer(
    pace: Pace,
    servers: Servers,
    namespace: str,
    tmp_path: Path,
    full: bool,  # noqa: FBT001
) -> None:
    """500 requests a second, a model that takes one second, a time to live of four; no two calls at the same time."""
    seconds = 30 if full else 11
    hot = Task(number=1, seconds=MODEL_S, ttl_s=TTL_S)
    waited: Counter[str] = Counter()
    worst_s = 0.0

    async def ask(client: PredictionClient) -> None:
        nonlocal worst_s
        began = loop.time()
        prediction = await client.ask("fresh", hot, timeout_s=10)
        assert prediction.value == {"square": 1}
        waited[prediction.cache_status.kind] += 1
        worst_s = max(worst_s, loop.time() - began)

    loop = asyncio.get_running_loop()
    with replicas(servers, namespace, "tests.models:fresh", 3, ORACLE_FOLDER=str(tmp_path)):
        async with PredictionClient(servers.amqp_url, namespace=namespace) as client:
            await ask(client)
            worst_s = 0.0
            began = loop.time()
            async with asyncio.TaskGroup() as asked:
                for number in range(seconds * PER_SECOND):
                    await asyncio.sleep(max(0.0, began + number / PER_SECOND - loop.time()))
                    asked.create_task(ask(client))
    assert waited == {"miss": 1, "hit": seconds * PER_SECOND}
    assert worst_s < MODEL_S / 2 * pace.now()
    calls = [event.at for event in events(tmp_path, "start")]
    ends = [event.at for event in events(tmp_path, "finish")]
    assert len(calls) >= seconds / TTL_S / 1.1
    for end, following in zip(ends, calls[1:], strict=False):
        assert following - end > SHORTEST_LIFE_S - EARLY_S - 0.1, "called before the early refresh was due"


async def test_while_the_model_fails_old_answers_are_given_to_those_who_take_them(
    pace: Pace,
    servers: Servers,
    namespace: str,
    tmp_path: Path,
    full: bool,  # noqa: FBT001
) -> None:
    """With `stale-if-error=60` an answer marked with its age; else 503 and when to try again; few tries."""
    fails_s = 20.0 if full else 8.0
    cool_downs_s = (0.25, 0.5, 1, 2, 4, 8)
    tries = 1 + sum(sum(cool_downs_s[: number + 1]) < fails_s for number in range(len(cool_downs_s)))
    question = Task(number=1, ttl_s=0.5)
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_KEEP_S": "60"}
    loop = asyncio.get_running_loop()
    with replicas(servers, namespace, "tests.models:fresh", 3, **environment):
        async with PredictionClient(servers.amqp_url, namespace=namespace, retries=NO_RETRIES) as client:
            await client.ask("fresh", question)
            (tmp_path / "fail-1").touch()
            while (await client.ask("fresh", question, cache_control=CACHED)).cache_status.kind != "stale":
                pass
            given, refused, ages, began = 0, 0, set(), loop.time()
            while loop.time() < began + fails_s:
                old = await client.ask("fresh", question, cache_control="stale-if-error=60")
                assert (old.value, old.cache_status.kind) == ({"square": 1}, "stale")
                ages.add(old.age_s)
                given += 1
                with pytest.raises(PredictionError) as error:
                    await client.ask("fresh", question)
                assert error.value.code == "UNAVAILABLE"
                assert error.value.retryable
                assert error.value.retry_after_s is not None
                assert 0 < error.value.retry_after_s <= 8
                refused += 1
            failed = [event.at for event in events(tmp_path, "fail")]
            (tmp_path / "fail-1").unlink()
            async with asyncio.timeout(10):
                while (
                    await client.ask("fresh", question, cache_control="stale-if-error=60")
                ).cache_status.kind == "stale":
                    pass
    assert tries - 1 <= len(failed) <= tries, failed
    assert given == refused > 50 * fails_s / pace.now()
    assert ages >= set(range(1, int(fails_s)))
