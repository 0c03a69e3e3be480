"""The examples for web applications, on a real broker: they answer, and errors have the right status."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import django
import httpx
import pytest
import uvloop
from django.conf import settings as django_settings
from django.test import Client as DjangoClient

from deploy.found import Servers
from examples.price import Features, Price, expected
from examples.web_fastapi import app
from prediction_client import InvalidArgument, PredictionClient
from tests.real import ROOT, responder_process

pytestmark = [pytest.mark.servers, pytest.mark.any_server, pytest.mark.timeout(60)]

PAIR = Features(pair="ETH/EUR")


@pytest.fixture
def served(servers: Servers, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The price model, and an environment that says where."""
    monkeypatch.setenv("AMQP_URL", servers.amqp_url)
    monkeypatch.setenv("RESPONDER_NAMESPACE", namespace)
    with responder_process(servers, namespace, "examples.price:price", PRICE_MODEL_SECONDS="0.01"):
        yield


async def test_a_fastapi_application_asks(served: None) -> None:
    """One client for its whole life; an error is the status that its code stands for."""
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://app") as web:
        answers = await asyncio.gather(*(web.post("/price", json={"pair": "ETH/EUR"}) for _ in range(50)))
        assert {answer.json()["price"] for answer in answers} == {expected(PAIR)}
        assert "responder; hit" in (await web.post("/price", json={"pair": "ETH/EUR"})).headers["cache-status"]
        refused = await web.post("/price", json={"pair": "ETH/EUR", "returns": [0.1] * 2000})
        assert refused.status_code == 422  # FastAPI's own look at the same schema
    gone = PredictionClient(os.environ["AMQP_URL"], namespace="nobody.")
    async with gone, httpx.AsyncClient(transport=transport, base_url="http://app") as web:
        app.state.predictions = gone
        missing = await web.post("/price", json={"pair": "ETH/EUR"})
    assert (missing.status_code, missing.json()["code"]) == (404, "UNKNOWN_MODEL")


async def test_a_django_application_asks(served: None) -> None:
    """From its threads, through one blocking client."""
    django_settings.configure(ROOT_URLCONF="examples.web_django", ALLOWED_HOSTS=["*"], SECRET_KEY="only a test's")
    django.setup()
    from examples.web_django import predictions

    def post(pair: str) -> Any:
        return DjangoClient().post("/price", {"pair": pair})

    answers = await asyncio.gather(*(asyncio.to_thread(post, "ETH/EUR") for _ in range(20)))
    refused = await asyncio.to_thread(post, "")
    assert sum(thread.name == "prediction client" for thread in threading.enumerate()) == 1
    await asyncio.to_thread(predictions().close)
    assert {answer.json()["price"] for answer in answers} == {expected(PAIR)}
    assert (refused.status_code, refused.json()["code"]) == (400, "INVALID_ARGUMENT")


async def test_a_script_needs_no_event_loop(served: None) -> None:
    """The lines of the README, in a process that ends by itself, though the client was not closed."""
    script = """
import os
from prediction_client import BlockingPredictionClient
client = BlockingPredictionClient(os.environ["AMQP_URL"], namespace=os.environ["RESPONDER_NAMESPACE"]).__enter__()
print(client.predict("price", {"pair": "ETH/EUR"})["price"])
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) == expected(PAIR)


@pytest.mark.parametrize("runs", [asyncio.run, uvloop.run], ids=["standard loop", "uvloop"])
async def test_the_client_works_on_either_event_loop(
    served: None, namespace: str, runs: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    """Typed answers, a typed error, and a clean end."""

    async def ask() -> None:
        async with PredictionClient(os.environ["AMQP_URL"], namespace=namespace) as client:
            assert (await client.predict("price", PAIR, output=Price)).price == expected(PAIR)
            with pytest.raises(InvalidArgument) as refused:
                await client.predict("price", {"pair": ""})
            assert refused.value.status == 400

    await asyncio.to_thread(runs, ask())
