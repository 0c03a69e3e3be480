"""What type checkers tell users: wrong calls are errors, and everything in the documents passes `mypy --strict`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real import ROOT

pytestmark = pytest.mark.timeout(300)

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

USER = """
from typing import Any, Coroutine, assert_type

from pydantic import BaseModel

from prediction_client import (
    BlockingPredictionClient, CacheStatus, Prediction, PredictionClient, PredictionError, Retries,
)
from prediction_client.testing import answering
from prediction_responder import Answer, Predictor, predictor
from prediction_responder.testing import answering as answering_for_owners


class Features(BaseModel):
    pair: str


class Price(BaseModel):
    price: float


@predictor
async def price(features: Features) -> Price:
    return Price(price=1.0)


@predictor(ttl_s=5, artefacts="weights.json")
def quick(features: Features) -> Answer[Price]:
    return Answer(Price(price=1.0), ttl_s=1)


@predictor(name="cls")
class Model:
    def load(self) -> None: ...

    def predict(self, features: Features) -> Price:
        return Price(price=1.0)


async def right(url: str) -> None:
    features = Features(pair="ETH/EUR")
    assert_type(await price(features), Price)
    assert_type(await price(features=features), Price)
    assert_type(quick(features), Answer[Price])
    assert_type(Model().predict(features), Price)
    async with PredictionClient(url, max_in_flight=3, timeout_s=2) as client, answering(price, quick, Model):
        assert_type(await client.predict("price", features, output=Price, timeout_s=2), Price)
        assert_type(await client.ask("price", features, output=Price, tenant="a"), Prediction[Price])
        assert_type((await client.ask("price", features)).cache_status, CacheStatus)
        assert_type(await client.predict_many("price", [features], output=Price), list[Price])
        assert_type(
            await client.predict_many("price", [features], output=Price, return_errors=True),
            list[Price | PredictionError],
        )
    opened = await PredictionClient.connect(url, retries=Retries(attempts=2))
    await opened.close()
    with BlockingPredictionClient.from_environment(namespace="a.") as blocking:
        assert_type(blocking.predict("price", features, output=Price), Price)
        assert_type(blocking.ask("price", features, output=Price, cache_control="no-cache"), Prediction[Price])
        assert_type(
            blocking.predict_many("price", [features], output=Price, return_errors=True),
            list[Price | PredictionError],
        )
    async with answering_for_owners(price, client={"namespace": "a."}) as client:
        assert_type(client, PredictionClient)


async def wrong(url: str, client: PredictionClient, blocking: BlockingPredictionClient) -> None:
    await price(17)  # wrong
    await price(Features(pair="a"), 2)  # wrong
    quick("ETH/EUR")  # wrong
    Model().predict(3)  # wrong
    PredictionClient(url, max_inflight=3)  # wrong
    BlockingPredictionClient(url, max_inflight=3)  # wrong
    await PredictionClient.connect(url, timeout=3)  # wrong
    PredictionClient.from_environment(name_space="a.")  # wrong
    BlockingPredictionClient.connect(url, max_in_flight="3")  # wrong
    await client.predict("price", {}, timout_s=2)  # wrong
    await client.predict("price", {}, timeout=2)  # wrong
    await client.ask("price", {}, timeout_s="2")  # wrong
    await client.ask("price", {}, cache_controll="no-cache")  # wrong
    await client.predict_many("price", [], errors="return")  # wrong
    await client.warm("price", [], tennant="a")  # wrong
    blocking.predict("price", {}, timout_s=2)  # wrong
    blocking.ask("price", {}, timeout=2)  # wrong
    blocking.predict_many("price", [], timout_s=2)  # wrong
    blocking.warm("price", [], timeout=2)  # wrong
    many: list[Price] = await client.predict_many("price", [], output=Price, return_errors=True)  # wrong
    one: int = (await client.ask("price", {}, output=Price)).value  # wrong
    answering(17)  # wrong
    answering(price, client={"max_inflight": 3})  # wrong
    predictor(ttl=5)  # wrong
"""


def check(folder: Path) -> list[str]:
    """What `mypy --strict` says of all files of a folder, as a user would run it there."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", ".cache", "."]
    clean = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def test_wrong_calls_are_type_errors_and_right_ones_keep_their_types(tmp_path: Path) -> None:
    """Each marked line of a user's file is an error, and no other line is."""
    (tmp_path / "user.py").write_text(USER)
    found = check(tmp_path)
    expected = {number for number, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}
    assert {int(line.split(":")[1]) for line in found} == expected, "\n".join(found)


def test_every_snippet_of_the_documents_passes(tmp_path: Path) -> None:
    """Beside the model of the README, which the others import."""
    count = 0
    for page in PAGES:
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            (tmp_path / f"{page.stem.replace('-', '_').lower()}_{number}.py").write_text(code)
            count += 1
    (tmp_path / "readme_0.py").rename(tmp_path / "my_model.py")
    assert count > 10
    assert check(tmp_path) == []
