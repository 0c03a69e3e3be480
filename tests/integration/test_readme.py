"""Prose that lies is a defect: the README's code is run."""

import asyncio
import re
from typing import Any

import pytest

from deploy.found import Servers
from prediction_client import PredictionClient
from tests.real import ROOT, ForeignClient, responder_process

pytestmark = [pytest.mark.servers, pytest.mark.any_server]

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def block(*words: str) -> str:
    """The one code block with these words."""
    (found,) = [text for text in BLOCKS if all(word in text for word in words)]
    return str(found).replace("from my_models", "from examples.price")


async def test_the_ten_lines_of_the_lane_echo(servers: Servers, namespace: str) -> None:
    """Consume, answer, acknowledge when confirmed."""
    names: dict[str, Any] = {}
    exec(block("QueueSpec", "Outbox").replace('"echo"', f'"{namespace}echo"'), names)
    echo = asyncio.create_task(names["main"](servers.amqp_url))
    async with ForeignClient.connected(servers.amqp_url) as client:
        await client.channel.declare_queue(f"{namespace}echo", durable=True)
        for number in range(20):
            await client.send(f"{namespace}echo", b"hello %d" % number)
        assert [(await client.reply()).body for _ in range(20)] == [b"hello %d" % number for number in range(20)]
        echo.cancel()
        with pytest.raises(asyncio.CancelledError):
            await echo
        assert await client.depth(f"{namespace}echo") == 0


async def test_the_model_of_the_readme_is_served_by_the_client_of_the_readme(servers: Servers, namespace: str) -> None:
    """The predictor's block is a predictor; the client's block gets an answer from the example model."""
    names: dict[str, Any] = {}
    exec(block("@predictor").replace("await my_model(features)", "1.0"), names)
    assert names["price"].name == "price"
    code = block("await client.predict").replace('"amqp://guest:guest@localhost/"', "url, namespace=namespace")
    lines = "\n".join(f"    {line}" for line in code.splitlines())
    shown: list[tuple[Any, ...]] = []
    names = {"print": lambda *values: shown.append(values)}
    exec(f"async def use(url, namespace):\n{lines}", names)
    with responder_process(servers, namespace, "examples.price:price", PRICE_MODEL_SECONDS="0.1"):
        await names["use"](servers.amqp_url, namespace)
        async with PredictionClient(servers.amqp_url, namespace=namespace) as client:
            value = await client.predict("price", {"pair": "ETH/EUR"}, timeout=5)
            blocking = block("BlockingPredictionClient").replace(
                '"amqp://guest:guest@localhost/"', "url, namespace=namespace"
            )
            names = {"url": servers.amqp_url, "namespace": namespace}
            await asyncio.to_thread(exec, blocking, names)
    assert [one[:2] for one in shown] == [(value, "hit")]
    assert names["price"].model_dump() == value
    assert names["prices"][0] == value


async def test_the_test_of_the_readme_passes(answering: Any) -> None:
    """In memory."""
    names: dict[str, Any] = {}
    exec(block("answering(price)"), names)
    await names["test_my_service"](answering)
