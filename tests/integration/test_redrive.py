"""`responder redrive`: dead letters that can be answered are, and the others stay."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.found import Servers
from tests.books import Fleet
from tests.real import ROOT, ForeignClient, responder_process

pytestmark = pytest.mark.servers

DEADLY = "tests.models:deadly"


def task(number: int, ending: str = "answer") -> bytes:
    """A request."""
    return json.dumps({"number": number, "ending": ending}).encode()


async def redrive(servers: Servers, namespace: str, *options: str) -> tuple[int, str, str]:
    """Run the command; its exit status and what it said."""
    environment = os.environ | {"AMQP_URL": servers.amqp_url, "RESPONDER_NAMESPACE": namespace}
    command = [sys.executable, "-m", "prediction_responder", "redrive", *options]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout, done.stderr


async def declared(servers: Servers, namespace: str) -> None:
    """The queues, as a responder has left them."""
    with responder_process(servers, namespace, DEADLY) as one:
        one.signal(signal.SIGTERM)
        assert await asyncio.to_thread(one.wait, 20) == 0


async def reject(client: ForeignClient, queue: str, count: int) -> None:
    """Have the broker dead-letter what waits in a queue."""
    waiting = await client.channel.get_queue(queue)
    for _ in range(count):
        message = await waiting.get(timeout=5)
        assert message is not None
        await message.reject(requeue=False)


async def test_innocents_are_answered_and_poison_stays(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """Five that can be answered, one whose requester has gone, one that kills its process, and one that had expired."""
    queue, dead = f"{namespace}predictions.deadly", f"{namespace}predictions.dead"
    await declared(servers, namespace)
    async with ForeignClient.connected(servers.amqp_url) as client:
        await client.send(queue, task(99), expiration=0.001)
        assert await client.depth(dead, 1) == 1
        for number in range(5):
            await client.send(queue, task(number), correlation_id=f"letter-{number}")
        await client.send(queue, task(7), reply_to="gone", correlation_id="orphan")
        await client.send(queue, task(666, "kill"), correlation_id="poison")
        await reject(client, queue, 7)
        assert await client.depth(dead, 8) == 8
        status, listed, _ = await redrive(servers, namespace, "--list")
        assert (status, listed.splitlines()[-1]) == (0, "1 expired, 7 rejected")
        status, said, _ = await redrive(servers, namespace, "--dry-run", "--json", "--reason", "rejected")
        plan = json.loads(said)
        assert status == 0
        assert sorted(plan["counts"].values()) == [1, 7]
        environment = {"ORACLE_FOLDER": str(tmp_path), "RESPONDER_LEASE_S": "0.5"}
        with Fleet.running(servers, namespace, DEADLY, 1, **environment) as fleet:
            status, said, problem = await redrive(servers, namespace, "--json")
            assert status == 1, problem
            facts: dict[str, Any] = json.loads(said)
            assert facts["counts"] == {
                "skipped: it had expired; its caller has stopped waiting": 1,
                "answered": 5,
                "answered; its caller is gone": 1,
                "kept: MODEL_CRASHED": 1,
            }
            assert fleet.deaths == 3
            replies = [await client.reply() for _ in range(5)]
            assert {str(one.correlation_id): json.loads(one.body) for one in replies} == {
                f"letter-{number}": {"result": {"square": number**2}} for number in range(5)
            }
            assert {one.type for one in replies} == {"result"}
            assert all("cache-status" in one.headers for one in replies)
            assert await client.depth(dead, 2) == 2
            status, said, _ = await redrive(servers, namespace)
            assert status == 1
            assert "kept: MODEL_CRASHED" in said
            assert fleet.deaths == 3
            assert await client.depth(dead, 2) == 2


async def test_letters_that_nobody_can_answer_now_stay(servers: Servers, namespace: str) -> None:
    """No responder, a damaged letter, a reply, a foreign queue: each stays and says why; nothing is lost by looking."""
    queue, dead = f"{namespace}predictions.deadly", f"{namespace}predictions.dead"
    await declared(servers, namespace)
    async with ForeignClient.connected(servers.amqp_url) as client:
        await client.send(queue, task(1), correlation_id="alone")
        await client.send(queue, task(1), type="result")
        await reject(client, queue, 2)
        await client.send(dead, task(1), correlation_id="from nowhere")
        assert await client.depth(dead, 3) == 3
        status, said, _ = await redrive(servers, namespace, "--timeout", "0.5")
        assert status == 1
        assert "kept: no reply within 0.5 s" in said
        assert "kept: it is a reply" in said
        assert "kept: it did not come from a request queue of this namespace" in said
        assert await client.depth(dead, 4) in (3, 4)  # the question itself may have expired into it by now
        for _ in range(3):
            await redrive(servers, namespace, "--list")
        assert await client.depth(dead, 4) in (3, 4)


async def test_without_a_dead_letter_queue_it_says_so(servers: Servers, namespace: str) -> None:
    """One line, and status 1; a wrong option is status 2."""
    status, _, problem = await redrive(servers, namespace)
    assert status == 1
    assert problem.startswith("RabbitMQ: ")
    assert "Traceback" not in problem
    assert (await redrive(servers, namespace, "--limit", "0"))[0] == 2
