"""One channel reaches all replicas of a deployment, in memory and on Redis."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from deploy.found import Servers
from prediction_responder.cache import LeaseStore
from prediction_responder.cache.keys import control_channel
from prediction_responder.cache.memory import MemoryCache
from prediction_responder.cache.redis import RedisCache
from prediction_responder.operate.control import Control, ask_all
from tests.real import ROOT, replicas

Make = Callable[[], LeaseStore]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.servers)])
async def three(request: pytest.FixtureRequest, namespace: str) -> AsyncIterator[list[LeaseStore]]:
    """Two replicas' stores, and an operator's."""
    memory, url = MemoryCache(), ""
    if request.param == "redis":
        url = request.getfixturevalue("servers").redis_url

    def make() -> LeaseStore:
        return RedisCache(url, timeout_s=2.0, control=control_channel(namespace)) if url else memory.beside()

    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(make()) for _ in range(3)]


async def test_a_question_reaches_all_and_their_answers_come_back(three: list[LeaseStore]) -> None:
    """A replica that does not know the question does not answer. A message that is no question changes nothing."""
    one, other, operator = three
    Control(one, {"name": lambda: {"name": "one"}, "fail": lambda: {"no JSON": object()}})
    Control(other, {"name": lambda: {"name": "other"}})
    answers = await ask_all(operator, "name", wait_s=10)
    assert sorted(answer["name"] for answer in answers) == ["one", "other"]
    for noise in (
        b"",
        b"{",
        b"[1]",
        b'{"ask": 7, "id": []}',
        b'{"ask": "name"}',
        b"\xff" * 100,
        b'"' * 100_000,
        b"[" * 60_000,
    ):
        await operator.announce(noise)
    assert await ask_all(operator, "unknown", wait_s=0.05) == []
    assert await ask_all(operator, "fail", wait_s=0.05) == []
    assert len(await ask_all(operator, "name", wait_s=10)) == 2


@pytest.mark.servers
async def test_the_command_lists_the_running_replicas(servers: Servers, namespace: str) -> None:
    """What each serves, and exit status 1 when there is none; another namespace's are not among them."""

    def run(*words: str, namespace: str = namespace) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "prediction_responder", "replicas", *words]
        environment = os.environ | servers.environment(namespace)
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    with replicas(servers, namespace, "tests.models:oracle", 2):
        listed = await asyncio.to_thread(run, "--json", "--wait", "20")
        assert listed.returncode == 0, listed.stderr
        found = json.loads(listed.stdout)["replicas"]
        assert len({one["replica"] for one in found}) == 2
        assert [(one["models"], one["missing"], one["unsettled"]) for one in found] == [({"oracle": "1"}, [], 0)] * 2
        shown = await asyncio.to_thread(run, "--wait", "20")
        assert shown.stdout.count("oracle 1: ready") == 2
        none = await asyncio.to_thread(run, namespace=f"other-{namespace}")
        assert (none.returncode, none.stderr) == (1, "no replica answered\n")
