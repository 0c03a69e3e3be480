"""Every error of the wire contract, provoked from outside by a client that knows nothing of our library."""

import json
import time
from typing import Any

import pytest

from deploy.found import Servers
from prediction_client import InvalidArgument, ModelFailed, PredictionClient, Unavailable
from tests.models import oracle
from tests.real import ForeignClient, embedded, settings, until

pytestmark = pytest.mark.servers

GOOD = b'{"number": 3}'
LATE = str(int(time.time() * 1000) - 5000)


@pytest.mark.parametrize(
    ("status", "code", "helps", "body", "properties"),
    [
        (400, "INVALID_ARGUMENT", "not a UTF-8 JSON value", b"{", {}),
        (400, "INVALID_ARGUMENT", "not a UTF-8 JSON value", b"\xff\xfe", {}),
        (400, "INVALID_ARGUMENT", "not a UTF-8 JSON value", b"", {}),
        (400, "INVALID_ARGUMENT", "not a UTF-8 JSON value", b'{"number": NaN}', {}),
        (400, "INVALID_ARGUMENT", "number: Field required", b"{}", {}),
        (400, "INVALID_ARGUMENT", "number: Input should be a valid integer", b'{"number": "x"}', {}),
        (400, "INVALID_ARGUMENT", "seconds: ", b'{"number": 1, "seconds": "later"}', {}),
        (400, "INVALID_ARGUMENT", "nested more than 64 deep", b"[" * 65 + b"]" * 65, {}),
        (400, "INVALID_ARGUMENT", "tenant", GOOD, {"headers": {"tenant": 7}}),
        (412, "CACHE_MISS", "nothing usable is cached", GOOD, {"headers": {"cache-control": "only-if-cached"}}),
        (413, "PAYLOAD_TOO_LARGE", "more than 2000 bytes", b'{"number": 3, "x": "' + b"x" * 300_000 + b'"}', {}),
        (415, "UNSUPPORTED_MEDIA_TYPE", "x-python-pickle", GOOD, {"content_type": "application/x-python-pickle"}),
        (415, "UNSUPPORTED_MEDIA_TYPE", "gzip", GOOD, {"content_encoding": "gzip"}),
        (500, "MODEL_ERROR", "the model failed", b'{"number": 3, "ending": "raise"}', {}),
        (500, "MODEL_OUTPUT_INVALID", "not valid", b'{"number": 3, "ending": "nan"}', {}),
        (503, "UNAVAILABLE", "not available", b'{"number": 3, "ending": "unavailable"}', {}),
        (504, "DEADLINE_EXCEEDED", "deadline had passed", GOOD, {"headers": {"deadline": LATE}}),
        (504, "DEADLINE_EXCEEDED", "before there was an answer", b'{"number": 4, "seconds": 3}', {"expiration": 0.2}),
    ],
)  # fmt: skip
async def test_each_code_comes_with_a_message_that_helps(
    servers: Servers, namespace: str, status: int, code: str, helps: str, body: bytes, properties: dict[str, Any]
) -> None:
    """One typed reply, and nothing of the inside in it."""
    async with (
        embedded(oracle, settings(servers, namespace, max_body_bytes=2000)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        reply, answer = await client.ask(f"{namespace}predictions.oracle", body, **properties)
    error = answer["error"]
    assert set(answer) == {"error"}
    assert (error["status"], error["code"], reply.type) == (status, code, "error")
    assert helps in error["message"]
    assert error["retryable"] is (status in (429, 503))
    assert reply.headers.get("retry-after-ms") == ("2000" if status == 503 else None)
    assert "secret" not in json.dumps(answer)
    assert "Traceback" not in json.dumps(answer)


async def test_odd_but_harmless_properties_cost_their_sender_nothing(servers: Servers, namespace: str) -> None:
    """A charset as encoding (Spring, Celery), malformed directives and an absurd deadline."""
    async with (
        embedded(oracle, settings(servers, namespace)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        for properties in (
            {"content_encoding": "UTF-8"},
            {"content_encoding": "binary", "content_type": "application/json; charset=utf-8"},
            {"content_type": "Application/JSON"},
            {"headers": {"cache-control": "max-age=x, min-fresh=4, =", "deadline": "soon"}},
            {"headers": {"deadline": "1"}},
            {"headers": {"deadline": 17, "cache-control": 4}},
            {"type": "call"},
        ):
            _, answer = await client.ask(f"{namespace}predictions.oracle", GOOD, **properties)
            assert answer == {"result": {"square": 9}}


async def test_who_asks_without_a_user_where_one_is_needed_is_told_so(servers: Servers, namespace: str) -> None:
    """403, and what to set; with the user that the broker has validated, the answer."""
    chosen = settings(servers, namespace, require_user_id="guest|someone")
    async with ForeignClient.connected(servers.amqp_url) as client, embedded(oracle, chosen):
        queue = f"{namespace}predictions.oracle"
        _, refused = await client.ask(queue, b'{"number": 3}')
        _, answer = await client.ask(queue, b'{"number": 3}', user_id="guest")
    assert (refused["error"]["code"], refused["error"]["status"]) == ("PERMISSION_DENIED", 403)
    assert "user_id" in refused["error"]["message"]
    assert answer == {"result": {"square": 9}}


async def test_bad_neighbours_hurt_nobody(servers: Servers, namespace: str) -> None:
    """A hundred bad requests among a hundred good ones: each gets its own answer."""
    async with (
        embedded(oracle, settings(servers, namespace)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        queue = f"{namespace}predictions.oracle"
        for number in range(100):
            await client.send(queue, b'{"number": %d}' % number, correlation_id=f"good {number}")
            await client.send(queue, b"{" * number, correlation_id=f"bad {number}")
        answers = {}
        for _ in range(200):
            reply = await client.reply()
            answers[reply.correlation_id] = json.loads(reply.body)
    assert all(answers[f"good {number}"] == {"result": {"square": number**2}} for number in range(100))
    assert all(answers[f"bad {number}"]["error"]["status"] == 400 for number in range(100))


@pytest.mark.parametrize("reply_to", ["{}predictions.oracle", "{}predictions.dead", "amq.rabbitmq.reply-to.!.x"])
async def test_a_reply_address_that_is_not_allowed_is_refused_and_consuming_goes_on(
    servers: Servers, namespace: str, reply_to: str
) -> None:
    """Our own queues, and direct addresses that do not have their exact form."""
    async with (
        embedded(oracle, settings(servers, namespace)) as responder,
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        queue = f"{namespace}predictions.oracle"
        await client.send(queue, GOOD, reply_to=reply_to.format(namespace))
        _, answer = await client.ask(queue, GOOD)
        assert answer == {"result": {"square": 9}}
        assert await client.depth(f"{namespace}predictions.dead") == 0
        await until(lambda: not responder.unsettled)


@pytest.mark.parametrize("kind", ["result", "error"])
async def test_an_answer_that_arrives_as_a_request_is_dropped(servers: Servers, namespace: str, kind: str) -> None:
    """That is how reply loops end."""
    async with (
        embedded(oracle, settings(servers, namespace)) as responder,
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        queue = f"{namespace}predictions.oracle"
        await client.send(queue, GOOD, type=kind, correlation_id="dropped")
        reply, _ = await client.ask(queue, GOOD, correlation_id="answered")
        assert reply.correlation_id == "answered"
        await until(lambda: not responder.unsettled)


async def test_the_client_raises_typed_errors(servers: Servers, namespace: str) -> None:
    """By code, with details and the hint."""
    async with (
        embedded(oracle, settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
    ):
        with pytest.raises(InvalidArgument) as invalid:
            await client.predict("oracle", {"number": "x"}, timeout_s=10)
        assert invalid.value.details["fields"][0]["field"] == "number"
        with pytest.raises(Unavailable) as unavailable:
            await client.predict("oracle", {"number": 1, "ending": "unavailable"}, timeout_s=10)
        assert unavailable.value.retry_after_s == 2.0
        assert unavailable.value.retryable
        with pytest.raises(ModelFailed, match="the model failed"):
            await client.predict("oracle", {"number": 1, "ending": "raise"}, timeout_s=10)
