"""Starting: broker, Redis and model may come in any order, and a stop is heard at any time."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess, RedisProcess
from tests.models import recorded
from tests.real import ROOT, ForeignClient, ResponderProcess, until

pytestmark = [pytest.mark.servers, pytest.mark.own_servers]

PARTS = ("broker", "redis", "model")
SOON_S = 2.0


@pytest.mark.parametrize("order", list(itertools.permutations(PARTS)), ids="-".join)
async def test_whatever_comes_last_it_is_ready_soon_after(
    namespace: str,
    tmp_path: Path,
    order: tuple[str, ...],
    full: bool,  # noqa: FBT001
) -> None:
    """Alive all the time, not ready before broker and model are there, ready within 2 s then; Redis is no condition."""
    if not full and order not in {
        ("redis", "model", "broker"),
        ("broker", "redis", "model"),
        ("model", "broker", "redis"),
    }:
        pytest.skip("only in the full form: `make test-faults`")
    redis = RedisProcess(tmp_path / "redis")
    with BrokerProcess.prepared(tmp_path / "rabbitmq") as broker:
        environment = {
            "AMQP_URL": broker.url,
            "REDIS_URL": redis.url,
            "RESPONDER_NAMESPACE": namespace,
            "ORACLE_FOLDER": str(tmp_path),
        }
        responder = ResponderProcess("tests.models:Late", environment)
        starts = {"broker": broker.start, "redis": redis.start, "model": (tmp_path / "weights").touch}
        try:
            responder.launch()
            await until(lambda: responder.probe("/livez") == 200)
            came: set[str] = set()
            for part in order:
                assert responder.probe("/livez") == 200
                assert responder.probe("/readyz") == (200 if {"broker", "model"} <= came else 503)
                await asyncio.to_thread(starts[part])
                came.add(part)
                if {"broker", "model"} <= came:
                    await until(lambda: responder.probe("/readyz") == 200, SOON_S)
            async with ForeignClient.connected(broker.url) as client:
                began = time.monotonic()
                while True:  # until Redis is in use again
                    message, answer = await client.ask(f"{namespace}predictions.late", b'{"number": 3}')
                    assert answer == {"result": {"square": 9}}
                    if str(message.headers["cache-status"]).startswith("responder; hit"):
                        break
                    assert time.monotonic() - began < SOON_S
            responder.signal(signal.SIGTERM)
            assert await asyncio.to_thread(responder.wait, 10) == 0
        finally:
            responder.end()
            redis.kill()


async def test_readiness_says_why_a_model_is_not_loaded(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """In the words of its own `load`; and a stop is heard meanwhile, with exit status 0."""
    responder = _launched("tests.models:Late", servers, namespace, tmp_path)
    try:
        await until(lambda: "weights" in _missing(responder))
        assert "model late: loading failed: FileNotFoundError" in _missing(responder)
        began = time.monotonic()
        responder.signal(signal.SIGTERM)
        assert await asyncio.to_thread(responder.wait, 5) == 0
        assert time.monotonic() - began < 2
    finally:
        responder.end()


async def test_a_stop_is_heard_while_a_model_blocks_its_thread_in_load(
    servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """A thread cannot be stopped, and must not hold the process."""
    responder = _launched("tests.models:Sleepy", servers, namespace, tmp_path)
    try:
        await until(lambda: recorded(tmp_path, "load"))
        began = time.monotonic()
        responder.signal(signal.SIGTERM)
        assert await asyncio.to_thread(responder.wait, 10) == 0
        assert time.monotonic() - began < 2
    finally:
        responder.end()


@pytest.mark.parametrize("patience_s", ["0", "0.5"])
def test_a_model_that_cannot_be_loaded_ends_the_start(servers: Servers, namespace: str, patience_s: str) -> None:
    """When its time is over: exit status 1, and the log says which and why."""
    command = [sys.executable, "-m", "responder", "serve", "tests.models:Unloadable"]
    environment = (
        os.environ | servers.environment(namespace) | {"RESPONDER_LOAD_TIMEOUT_S": patience_s, "RESPONDER_LOG": "json"}
    )
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert '"event":"cannot_serve"' in last.replace(": ", ":")
    assert "model unloadable: loading failed: FileNotFoundError: weights.bin" in last
    assert ("model_not_loaded" in ended.stderr) == (patience_s != "0")


def _launched(model: str, servers: Servers, namespace: str, folder: Path) -> ResponderProcess:
    one = ResponderProcess(model, servers.environment(namespace) | {"ORACLE_FOLDER": str(folder)})
    one.launch()
    return one


def _missing(responder: ResponderProcess) -> str:
    """What readiness says is missing."""
    try:
        return responder.read("/readyz")
    except OSError:
        return ""
