"""The compose file, brought up and asked a question."""

import os
import secrets
from collections.abc import Iterator

import pytest

from deploy.servers import docker_has_images
from prediction_client import PredictionClient
from tests.real import DEMAND_CONTAINERS, ROOT

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


@pytest.fixture
def engine() -> None:
    """A Docker engine with the images: demanded where the environment says so, otherwise a reason to skip."""
    if docker_has_images():
        return
    reason = "no Docker engine answers, or its images cannot be had"
    if os.environ.get(DEMAND_CONTAINERS):
        pytest.fail(f"{reason}, and {DEMAND_CONTAINERS} is set")
    pytest.skip(reason)


@pytest.fixture
def composed(engine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The whole compose file, its responder built from this tree; the broker's URL."""
    from testcontainers.compose import DockerCompose

    for name, value in {
        "COMPOSE_PROJECT_NAME": f"responder-test-{secrets.token_hex(4)}",
        "AMQP_PORT": "0",
        "REDIS_PORT": "0",
        "PRICE_MODEL_SECONDS": "0.2",
    }.items():
        monkeypatch.setenv(name, value)
    with DockerCompose(str(ROOT), build=True, wait=True) as compose:
        yield f"amqp://guest:guest@127.0.0.1:{compose.get_service_port('rabbitmq', 5672)}/"


async def test_the_compose_file_answers_a_question(composed: str) -> None:
    """Broker, cache and responder in containers; a miss, then a hit out of their Redis."""
    async with PredictionClient(composed) as client:
        first = await client.ask("price", {"pair": "ETH/EUR"}, timeout_s=30)
        second = await client.ask("price", {"pair": "ETH/EUR"}, timeout_s=30)
    assert first.value == second.value
    assert (first.cache_status.kind, second.cache_status.kind) == ("miss", "hit")
