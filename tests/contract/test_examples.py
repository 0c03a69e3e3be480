"""The golden examples, read by both ends: an old message must decode for ever."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amqp_lane import Delivery, Properties
from amqp_lane.encoding import encode_content
from amqp_lane.properties import locate
from examples.price import price
from prediction_client import Prediction, PredictionError
from prediction_client.prediction import prediction_of
from prediction_responder.amqp.replies import compose
from prediction_responder.amqp.requests import Intake, ReplyPolicy
from prediction_responder.messages import Outcome
from prediction_schemas import (
    CacheStatus,
    Code,
    Failure,
    decode_reply,
    encode_failure,
    encode_result,
    parse_cache_status,
)
from prediction_schemas.wire import REQUEST_HEADERS
from tests.fakes import Notes, served

EXAMPLES = Path(__file__).resolve().parents[2] / "schemas" / "examples"
REQUESTS = sorted((EXAMPLES / "requests").glob("*.json"))
REPLIES = sorted((EXAMPLES / "replies").glob("*.json"))
OLDER = sorted((EXAMPLES / "older" / "replies").glob("*.json"))  # as they were written before


def name_of(path: Path) -> str:
    """For test ids."""
    return path.stem


def read(path: Path) -> dict[str, Any]:
    """An example."""
    example: dict[str, Any] = json.loads(path.read_text())
    return example


def delivery(path: Path, wanted: Callable[[bytes], bool]) -> Delivery:
    """An example as an inbox would hand it over."""
    example = read(path)
    properties: dict[str, Any] = {name: value.encode() for name, value in example["properties"].items()}
    headers = {name.encode(): value.encode() for name, value in example["headers"].items() if wanted(name.encode())}
    return Delivery("q", example["body"].encode(), Properties(**properties, headers=headers), False, 1, 1)  # noqa: FBT003


@pytest.mark.parametrize("path", REQUESTS, ids=name_of)
async def test_the_responder_reads_every_request(path: Path) -> None:
    """All of them ask for the same answer, whatever their properties."""
    model = await served(price)
    notes = Notes()
    intake = Intake(max_body_bytes=2**20, tenant_from_user_id=False, observer=notes)
    one = delivery(path, lambda name: name in REQUEST_HEADERS)
    reply_to = one.properties.reply_to
    request = intake.request(one, model, 0.0, 0)
    assert model.read(request.body).model_dump() == {"pair": "ETH/EUR", "horizon_minutes": 5, "returns": [0.1, 0.2]}
    assert notes.odd_ones == []
    assert request.tenant == (b"desk-1" if path.stem == "everything" else b"")
    assert request.has_deadline is (path.stem == "everything")

    assert reply_to is None or ReplyPolicy(own=b"predictions", pattern=rb".+").accepts(reply_to)


@pytest.mark.parametrize("path", REPLIES + OLDER, ids=name_of)
def test_the_client_reads_every_reply(path: Path) -> None:
    """Results as predictions, errors as typed errors."""
    outcome = prediction_of(delivery(path, lambda _: True))
    if path.stem.startswith("error-"):
        assert isinstance(outcome, PredictionError)
        assert outcome.code == path.stem.removeprefix("error-").upper()
        assert outcome.retry_after_s == (1.5 if outcome.retryable else None)
    else:
        assert isinstance(outcome, Prediction)
        assert outcome.value == {"price": 2300.25}
        expected = {"forced": "request"}.get(path.stem, path.stem)
        assert outcome.cache_status.kind == expected


@pytest.mark.parametrize("path", REPLIES, ids=name_of)
async def test_the_responder_writes_every_reply_byte_for_byte(path: Path) -> None:
    """Body and properties; equal questions have byte-identical answers."""
    example = read(path)
    body: str = example["body"]
    reply = decode_reply(body.encode())
    if isinstance(reply, Failure):
        code: Code | None = Code[reply.code]
        assert encode_failure(Code[reply.code], reply.message, dict(reply.details)).decode() == body
    else:
        code = None
        assert encode_result(b'{"price":2300.25}').decode() == body
    status = parse_cache_status(example["headers"]["cache-status"])
    assert status.encoded.decode() == example["headers"]["cache-status"]
    asked = delivery(EXAMPLES / "requests" / "plain.json", lambda _: True)
    age = example["headers"]["age"]
    retry = example["headers"].get("retry-after-ms")
    outcome = Outcome(body.encode(), code, retry_after_ms=retry and int(retry), age_s=int(age), status=CacheStatus())
    message = compose(
        asked, outcome, status, model=await served(price), duration_ms=int(example["headers"]["duration-ms"])
    )
    content = encode_content(
        1, message.template, message.body, 131_072, correlation_id=message.correlation_id, fields=message.fields
    )
    names = {name.encode() for name in example["headers"]}
    written = locate(content[7:], names)
    assert {name.decode(): (value or b"").decode() for name, value in written.headers.items()} == example["headers"]
    assert written.type == example["properties"]["type"].encode()
    assert written.correlation_id == example["properties"]["correlation_id"].encode()


def test_there_is_an_example_of_every_code() -> None:
    """A new code comes with its example."""
    assert {path.stem for path in REPLIES} >= {f"error-{code.name.lower()}" for code in Code}
