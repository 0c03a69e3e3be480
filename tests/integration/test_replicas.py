"""One model call per key across replicas: real processes, a real broker, a real Redis."""

import asyncio
import json
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from deploy.found import Servers
from tests.models import recorded, starters
from tests.pace import Pace
from tests.real import ForeignClient, ResponderProcess, replicas, until

pytestmark = pytest.mark.servers

LEASE_S = 1.0


def task(number: int, seconds: float = 0.0, ending: str = "answer") -> bytes:
    """A request for the oracle."""
    return json.dumps({"number": number, "seconds": seconds, "ending": ending}).encode()


def leader_of(folder: Path, number: int, them: list[ResponderProcess]) -> ResponderProcess:
    """The process that works on a number."""
    [pid] = starters(folder, number)
    [one] = [one for one in them if one.process is not None and one.process.pid == pid]
    return one


async def test_eight_replicas_call_the_model_once_for_each_of_a_hundred_keys(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """800 requests at once; everybody is answered, and nothing is left in Redis but answers."""
    with replicas(servers, namespace, "tests.models:oracle", 8, ORACLE_FOLDER=str(tmp_path), RESPONDER_PREFETCH="100"):
        async with ForeignClient.connected(servers.amqp_url) as client:
            for number in range(800):
                body = task(number % 100, 0.2)
                await client.send(f"{namespace}predictions.oracle", body, correlation_id=str(number))
            replies = [await client.reply() for _ in range(800)]
    answered = {int(str(reply.correlation_id)): json.loads(reply.body)["result"]["square"] for reply in replies}
    assert answered == {number: (number % 100) ** 2 for number in range(800)}
    assert Counter(recorded(tmp_path, "start")) == Counter(range(100))
    assert len({pid for number in range(100) for pid in starters(tmp_path, number)}) > 1  # more than one of them led
    kinds = Counter(str(reply.headers["cache-status"]).partition("ttl")[0] for reply in replies)
    assert kinds["responder; fwd=miss; stored"] == 100, kinds


async def test_three_replicas_call_the_model_once_for_a_thousand_identical_requests(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """Those who wait on other replicas are told as well, failures included."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_PREFETCH": "400"}
    with replicas(servers, namespace, "tests.models:oracle", 3, **environment):
        async with ForeignClient.connected(servers.amqp_url) as client:
            for ending, code in (("answer", None), ("raise", "MODEL_ERROR")):
                number = 7 if code is None else 8
                body = task(number, 2.0, ending)
                await asyncio.gather(*(client.send(f"{namespace}predictions.oracle", body) for _ in range(1000)))
                bodies = {(await client.reply()).body for _ in range(1000)}
                assert len(bodies) == 1
                assert json.loads(bodies.pop()).get("error", {}).get("code") == code
    assert sorted(recorded(tmp_path, "start")) == [7, 8]


async def test_a_model_that_takes_ten_leases_is_called_once(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """Its lease is renewed."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_LEASE_S": "0.5"}
    with replicas(servers, namespace, "tests.models:slow", 3, **environment):
        async with ForeignClient.connected(servers.amqp_url) as client:
            for _ in range(30):
                await client.send(f"{namespace}predictions.slow", task(1, 5.0))
            assert {json.loads((await client.reply(15)).body)["result"]["square"] for _ in range(30)} == {1}
    assert recorded(tmp_path, "start") == [1]


async def test_a_leader_that_is_killed_is_replaced_within_its_lease(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """One start more, and everybody is answered, those too who had asked the dead one."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_LEASE_S": str(LEASE_S)}
    with replicas(servers, namespace, "tests.models:slow", 3, **environment) as them:
        async with ForeignClient.connected(servers.amqp_url) as client:
            for number in range(12):
                await client.send(f"{namespace}predictions.slow", task(1, 2.0), correlation_id=str(number))
            await until(lambda: recorded(tmp_path, "start") == [1])
            leader_of(tmp_path, 1, them).signal(signal.SIGKILL)
            killed_at = time.monotonic()
            await until(lambda: len(recorded(tmp_path, "start")) == 2, timeout_s=LEASE_S + 0.5)
            taken_over_s = time.monotonic() - killed_at
            assert {str((await client.reply()).correlation_id) for _ in range(12)} == set(map(str, range(12)))
            answered_s = time.monotonic() - killed_at
    assert recorded(tmp_path, "start") == [1, 1]
    assert taken_over_s < LEASE_S + 0.5 * pace.now()
    assert answered_s < 2.0 + LEASE_S + 0.5 * pace.now()


async def test_a_leader_that_was_stopped_for_too_long_is_fenced(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """Another leads meanwhile; the late commit changes nothing, and says so in the metrics."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_LEASE_S": str(LEASE_S)}
    with replicas(servers, namespace, "tests.models:slow", 2, **environment) as them:
        async with ForeignClient.connected(servers.amqp_url) as client:
            for number in range(8):
                await client.send(f"{namespace}predictions.slow", task(1, 1.5), correlation_id=str(number))
            await until(lambda: recorded(tmp_path, "start") == [1])
            stopped = leader_of(tmp_path, 1, them)
            stopped.signal(signal.SIGSTOP)
            [other] = [one for one in them if one is not stopped]
            first = await client.reply()
            assert recorded(tmp_path, "start") == [1, 1]
            _, kept = await client.ask(f"{namespace}predictions.slow", task(1, 1.5))
            stopped.signal(signal.SIGCONT)
            await until(lambda: 'kind="commit_fenced"} 1.0' in stopped.metrics())
            assert "commit_fenced" not in other.metrics()
            _, still = await client.ask(f"{namespace}predictions.slow", task(1, 1.5))
    assert json.loads(first.body) == kept == still == {"result": {"square": 1}}
    assert recorded(tmp_path, "start") == [1, 1]


async def test_followers_hold_no_permit(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """One permit, ten deliveries at a time, ten duplicates and another key: nobody waits for ever."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_PREFETCH": "10"}
    with replicas(servers, namespace, "tests.models:one_by_one", 2, **environment):
        async with ForeignClient.connected(servers.amqp_url) as client:
            for number in [1] * 10 + [2]:
                await client.send(f"{namespace}predictions.one_by_one", task(number, 0.3))
            replies = [await client.reply(5) for _ in range(11)]
    squares = sorted(json.loads(reply.body)["result"]["square"] for reply in replies)
    assert squares == [1] * 10 + [4]
    assert sorted(recorded(tmp_path, "start")) == [1, 2]


async def test_an_input_that_kills_its_process_is_given_up_after_three(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """It is answered MODEL_CRASHED and dead-lettered; its neighbours are answered, and no other is dead-lettered."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_LEASE_S": "0.5", "RESPONDER_PREFETCH": "1"}
    with replicas(servers, namespace, "tests.models:deadly", 4, **environment):
        async with ForeignClient.connected(servers.amqp_url) as client:
            await client.send(f"{namespace}predictions.deadly", task(666, ending="kill"), correlation_id="666")
            for number in range(20):
                await client.send(f"{namespace}predictions.deadly", task(number), correlation_id=str(number))
            replies = [await client.reply(15) for _ in range(21)]
            assert await client.depth(f"{namespace}predictions.dead", expected=1) == 1
    answers = {str(reply.correlation_id): json.loads(reply.body) for reply in replies}
    assert answers.pop("666")["error"]["code"] == "MODEL_CRASHED"
    assert answers == {str(number): {"result": {"square": number**2}} for number in range(20)}
    assert recorded(tmp_path, "start").count(666) == 3


async def test_those_who_die_with_a_killer_are_not_taken_for_one(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """All are at work in the process that one kills, again and again: they are answered, it alone is given up."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_LEASE_S": "0.5"}
    with replicas(servers, namespace, "tests.models:deadly", 1, **environment) as them:
        async with ForeignClient.connected(servers.amqp_url) as client:
            for number in range(20):
                await client.send(f"{namespace}predictions.deadly", task(number, 0.1), correlation_id=str(number))
            body = task(666, 0.05, ending="kill")
            await client.send(f"{namespace}predictions.deadly", body, correlation_id="666")
            for death in range(3):
                await asyncio.to_thread(them[0].wait, 20)
                if death < 2:
                    them[0].launch()  # it may die before it says that it is ready
                else:
                    them[0].start()
            codes: dict[str, str | None] = {}
            while len(codes) < 21:
                reply = await client.reply(20)
                codes[str(reply.correlation_id)] = json.loads(reply.body).get("error", {}).get("code")
            assert await client.depth(f"{namespace}predictions.dead", expected=1) == 1
    assert codes.pop("666") == "MODEL_CRASHED"
    assert set(codes.values()) == {None}
    assert recorded(tmp_path, "start").count(666) == 3


async def test_a_replica_that_leaves_hands_its_lead_over(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """SIGTERM with too little time to finish: another one leads at once, not after a lease."""
    environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_LEASE_S": "30", "RESPONDER_GRACE_S": "0.2"}
    with replicas(servers, namespace, "tests.models:slow", 2, **environment) as them:
        async with ForeignClient.connected(servers.amqp_url) as client:
            for number in range(4):
                await client.send(f"{namespace}predictions.slow", task(1, 1.0), correlation_id=str(number))
            await until(lambda: recorded(tmp_path, "start") == [1])
            leader_of(tmp_path, 1, them).signal(signal.SIGTERM)
            replies = await asyncio.gather(*(client.reply(5) for _ in range(4)))
    assert {json.loads(reply.body)["result"]["square"] for reply in replies} == {1}
    assert recorded(tmp_path, "start") == [1, 1]
