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
from prediction_responder import Responder
from prediction_responder.execution.served import ModelNotLoaded
from prediction_responder.model.discovery import find_predictors
from tests.models import recorded
from tests.pace import Pace
from tests.real import ROOT, ForeignClient, ResponderProcess, settings, until

pytestmark = [pytest.mark.servers, pytest.mark.own_servers]

PARTS = ("broker", "redis", "model")
# Attempts to connect to the broker are at most 5 s apart, to Redis or load a model at most 1 s.
SOON_S, BROKER_SOON_S = 2.0, 7.0


@pytest.mark.parametrize("order", list(itertools.permutations(PARTS)), ids="-".join)
async def test_whatever_comes_last_it_is_ready_soon_after(
    pace: Pace,
    namespace: str,
    tmp_path: Path,
    order: tuple[str, ...],
    full: bool,  # noqa: FBT001
) -> None:
    """Alive all the time, not ready before broker and model are there, ready soon then; Redis is no condition."""
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
            "RESPONDER_LOAD_TIMEOUT_S": "600",  # servers may take minutes to start
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
                    soon_s = BROKER_SOON_S if part == "broker" else SOON_S
                    await until(lambda: responder.probe("/readyz") == 200, soon_s)
            async with ForeignClient.connected(broker.url) as client:
                began = time.monotonic()
                while True:  # until Redis is in use again
                    message, answer = await client.ask(f"{namespace}predictions.late", b'{"number": 3}')
                    assert answer == {"result": {"square": 9}}
                    if str(message.headers["cache-status"]).startswith("responder; hit"):
                        break
                    assert time.monotonic() - began < SOON_S * pace.now()
            responder.signal(signal.SIGTERM)
            assert await asyncio.to_thread(responder.wait, 10) == 0
        finally:
            responder.end()
            redis.kill()


async def test_readiness_says_why_a_model_is_not_loaded(servers: Servers, namespace: str, tmp_path: Path) -> None:
    """The kind of error; its words may be secret. And a stop is heard meanwhile, with exit status 0."""
    responder = _launched("tests.models:Late", servers, namespace, tmp_path)
    try:
        await until(lambda: "model late: not loaded: FileNotFoundError, see the log" in _missing(responder))
        await _stops_soon(responder)
    finally:
        responder.end()


@pytest.mark.parametrize("model", ["Sleepy", "SleepyLoop", "SleepyThread"])
async def test_a_stop_is_heard_while_a_model_blocks_in_load(
    servers: Servers, namespace: str, tmp_path: Path, model: str
) -> None:
    """In whatever thread: it cannot be stopped, and must not hold the process. Probes are answered meanwhile."""
    responder = _launched(f"tests.models:{model}", servers, namespace, tmp_path)
    try:
        await until(lambda: recorded(tmp_path, "load"))
        assert responder.probe("/livez") == 200
        await _stops_soon(responder)
    finally:
        responder.end()


def test_what_is_not_loaded_is_not_closed_and_what_fails_twice_is_made_once(tmp_path: Path) -> None:
    """A `close` on half a model would hide why it is half."""

    async def start() -> None:
        chosen = settings(Servers("amqp://127.0.0.1:1/", "memory://", "given"), "half.", load_timeout_s=0.5)
        async with Responder(find_predictors(["tests.models:Half"]), chosen):
            pytest.fail("it was loaded")

    os.environ["ORACLE_FOLDER"] = str(tmp_path)
    try:
        with pytest.raises(ModelNotLoaded, match="model half: loading failed: ConnectionError: no store"):
            asyncio.run(start())
    finally:
        del os.environ["ORACLE_FOLDER"]
    assert (len(recorded(tmp_path, "made")), len(recorded(tmp_path, "load"))) == (1, 3)


@pytest.mark.parametrize("patience_s", ["0", "0.5"])
def test_a_model_that_cannot_be_loaded_ends_the_start(servers: Servers, namespace: str, patience_s: str) -> None:
    """When its time is over: exit status 1, and the log says which and why."""
    command = [sys.executable, "-m", "prediction_responder", "serve", "tests.models:Unloadable"]
    environment = (
        os.environ | servers.environment(namespace) | {"RESPONDER_LOAD_TIMEOUT_S": patience_s, "RESPONDER_LOG": "json"}
    )
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert '"event":"cannot_serve"' in last.replace(": ", ":")
    assert "model unloadable: loading failed: FileNotFoundError: weights.bin of //***@store/" in last
    assert "canary" not in last
    assert ("model_not_loaded" in ended.stderr) == (patience_s != "0")


async def _stops_soon(responder: ResponderProcess) -> None:
    """On SIGTERM, with exit status 0."""
    began = time.monotonic()
    responder.signal(signal.SIGTERM)
    assert await asyncio.to_thread(responder.wait, 10) == 0
    assert time.monotonic() - began < 2


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
