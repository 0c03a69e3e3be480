"""What a responder says: no password, no body, one line an event, and no more series than models and codes."""

import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess, RedisProcess
from tests.books import Requester
from tests.real import ROOT, ForeignClient, ResponderProcess, responder_process, until
from tests.rights import SECRET, add_redis_user, add_user, for_namespaces, with_user

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(120)]

WRONG_PASSWORD, BODY = "canary-of-a-wrong-password", "canary-of-a-body"
CANARIES = (SECRET, WRONG_PASSWORD, BODY)
ODD = ["a\nb", "a\r\nb", "\x1b[31mred", "\x00", "a\u2028b", '{"event": "forged"}', "\x7f\x9b", "x" * 200]
COMMANDS = [
    ("check", "examples.price:price"),
    ("check", "examples.price:price", "--json"),
    ("explain", "examples.price:price", '{"pair": "X"}'),
    ("invalidate", "price"),
    ("redrive",),
    ("declare", "price"),
    ("serve", "tests.models:Unloadable"),
]


@asynccontextmanager
async def logged(folder: Path, environment: dict[str, str]) -> AsyncIterator[tuple[ResponderProcess, Path]]:
    """A responder that says as much as it can, and the file of what it says."""
    said = folder / "stderr"
    with said.open("wb") as file:
        one = ResponderProcess("tests.models:oracle", environment | {"RESPONDER_LOG_LEVEL": "DEBUG"}, stderr=file)
        try:
            one.launch()
            yield one, said
            one.signal(signal.SIGTERM)
            assert await asyncio.to_thread(one.wait, 15) == 0
        finally:
            one.end()


@pytest.mark.own_servers
@pytest.mark.parametrize("style", ["json", "console"])
async def test_no_secret_and_no_body_is_ever_said_and_an_event_is_one_line(
    namespace: str, tmp_path: Path, style: str
) -> None:
    """Through refused log-ins, lost servers, broken requests and odd names: in logs, readiness and metrics."""
    with (
        BrokerProcess.running(tmp_path / "rabbitmq") as broker,
        RedisProcess.running(tmp_path / "redis") as redis,
    ):
        add_user(broker.control, "responder", for_namespaces)
        broker.control("change_password", "responder", WRONG_PASSWORD)  # ours is the wrong one for now
        redis_url = await add_redis_user(redis.url, for_namespaces)
        environment = {
            "AMQP_URL": with_user(broker.url),
            "REDIS_URL": redis_url,
            "RESPONDER_NAMESPACE": namespace,
            "RESPONDER_LOG": style,
            "ORACLE_FOLDER": str(tmp_path),
        }
        async with logged(tmp_path, environment) as (responder, said):
            await until(lambda: "ACCESS_REFUSED" in _read(responder))
            shown = [responder.read("/readyz")]
            await asyncio.to_thread(broker.control, "change_password", "responder", SECRET)
            await until(lambda: responder.probe("/readyz") == 200)
            async with ForeignClient.connected(broker.url) as client:
                queue = f"{namespace}predictions.oracle"
                for odd in ODD:
                    await client.send(queue, b"{}", reply_to=f"{namespace}predictions.{odd}")
                    body = json.dumps({"number": odd, "canary": BODY}).encode()
                    message, _ = await client.ask(
                        queue, body, correlation_id=odd, headers={"tenant": odd, "cache-control": odd, "deadline": odd}
                    )
                    assert message.correlation_id == odd
                await client.ask(queue, json.dumps({"number": 1, "ending": "raise", "canary": BODY}).encode())
                redis.kill()
                await until(lambda: "cache: " in responder.read("/readyz"))
                await client.ask(queue, b'{"number": 2}')
                shown.append(responder.read("/readyz"))
                redis.start()  # with no such user
                await until(lambda: "WRONGPASS" in responder.read("/readyz"))
                shown += [responder.read("/readyz"), responder.metrics()]
            await asyncio.to_thread(broker.control, "close_all_connections", SECRET[:6])
        text = said.read_text()
    for canary in CANARIES:
        assert not [line for line in [*text.splitlines(), *shown] if canary in line]
    lines = text.encode().split(b"\n")[:-1]
    assert not [line for line in lines if re.search(rb"[\x00-\x08\x0b-\x1f\x7f]|\xe2\x80\xa8|\xc2\x9b", line)]
    if style == "json":
        events = [json.loads(line) for line in lines]
        assert "forged" not in [one["event"] for one in events]
        assert [one["event"] for one in events].count("reply_to_refused") == len(ODD)
    else:
        heads = [line for line in lines if re.match(rb"\d{4}-\d\d-\d\dT\S+ \[", line)]
        assert sum(b"reply_to_refused" in line for line in heads) == len(ODD)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_no_command_says_a_password(servers: Servers, namespace: str, command: tuple[str, ...]) -> None:
    """Refused by both servers, and with addresses that nobody answers on."""
    for amqp_url, redis_url in (
        (with_user(servers.amqp_url, "nobody"), with_user(servers.redis_url, "nobody")),
        (
            f"amqp://nobody:{SECRET}@127.0.0.1:1/?heartbeat={SECRET}",
            f"redis://nobody:{SECRET}@127.0.0.1:1/0?db={SECRET}",
        ),
    ):
        urls = {"AMQP_URL": amqp_url, "REDIS_URL": redis_url, "RESPONDER_NAMESPACE": namespace}
        chosen = {"RESPONDER_LOAD_TIMEOUT_S": "0", "RESPONDER_LOG_LEVEL": "DEBUG"}
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "prediction_responder", *command],
            env=os.environ | urls | chosen,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert SECRET not in done.stdout + done.stderr
        if command[0] != "serve":  # whose log of a model's failure has the model's traceback
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("style", ["json", "console"])
async def test_an_error_of_a_model_forges_no_line(servers: Servers, namespace: str, tmp_path: Path, style: str) -> None:
    """Models put inputs into their errors, and their errors are logged with tracebacks."""
    said, forged = tmp_path / "stderr", "x\n2026-01-01T00:00:00Z [info     ] drained\x1b[31m\r{}"
    with said.open("wb") as file:
        environment = servers.environment(namespace) | {"RESPONDER_LOG": style}
        responder = ResponderProcess("tests.models:talkative", environment, stderr=file)
        try:
            responder.launch()
            await asyncio.to_thread(responder.wait_until_ready)
            async with ForeignClient.connected(servers.amqp_url) as client:
                body = json.dumps({"number": 1, "ending": forged}).encode()
                _, answer = await client.ask(f"{namespace}predictions.talkative", body)
                assert answer["error"]["code"] == "MODEL_ERROR"
            await until(lambda: "ValueError" in said.read_text())
        finally:
            responder.end()
    lines = said.read_text().split("\n")
    assert not [line for line in lines if "\x1b" in line or "\r" in line or line.startswith("2026-01-01")]


async def test_series_do_not_grow_with_what_requests_carry(servers: Servers, namespace: str) -> None:
    """Ten thousand identifiers, tenants, directives and odd properties: as many series as after the first few."""
    with responder_process(servers, namespace, "tests.models:oracle") as responder:
        async with Requester.connected(servers.amqp_url, f"{namespace}predictions.oracle") as requester:
            counts = []
            numbers = itertools.count()
            for requests in (200, 10_000):
                for _ in range(requests):
                    number = next(numbers)
                    requester.ask(
                        number % 50, identifier=f"id {number}".encode(), cache_control=f"max-age={number}, x={number}"
                    )
                assert await requester.all_answered(60), requester.books.row()
                counts.append(len([one for one in responder.metrics().splitlines() if not one.startswith("#")]))
    assert counts[1] <= counts[0] + 5
    assert counts[1] <= 200


def _read(responder: ResponderProcess) -> str:
    try:
        return responder.read("/readyz")
    except OSError:
        return ""
