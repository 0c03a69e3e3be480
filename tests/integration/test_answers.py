"""Answers, from end to end."""

import asyncio
import time
from pathlib import Path

import pytest

from deploy.found import Servers
from prediction_client import PredictionClient, PredictionError, UnknownModel
from tests.fakes import GatedModel
from tests.models import oracle, recorded
from tests.pace import Pace
from tests.real import ForeignClient, embedded, own_redis, responder_process, settings, until

pytestmark = pytest.mark.servers


async def test_a_thousand_identical_requests_are_one_model_call(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """1,000 equal results, and p99 below the model's second plus 0.2 s."""
    with responder_process(servers, namespace, "tests.models:oracle", ORACLE_FOLDER=str(tmp_path)):
        async with PredictionClient(servers.amqp_url, namespace=namespace) as client:
            took: list[float] = []

            async def ask() -> object:
                began = time.perf_counter()
                value = await client.predict("oracle", {"number": 7, "seconds": 1.0}, timeout_s=20)
                took.append(time.perf_counter() - began)
                return value

            values = await asyncio.gather(*(ask() for _ in range(1000)))
    assert values == [{"square": 49}] * 1000
    assert recorded(tmp_path, "start") == [7]
    assert sorted(took)[989] < 1.0 + 0.2 * pace.now()


@pytest.mark.parametrize("url", ["redis", "memory://"])
async def test_a_repeated_request_is_answered_from_the_cache(servers: Servers, namespace: str, url: str) -> None:
    """From Redis, and from memory for a first look without it."""
    model = GatedModel(is_open=True)
    values = {} if url == "redis" else {"REDIS_URL": url}
    async with (
        embedded(model.predictor(), settings(servers, namespace, **values)),
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
    ):
        first = await client.ask("echo", {"text": "a"}, timeout_s=10)
        second = await client.ask("echo", {"weight": 1, "text": "a"}, timeout_s=10)
    assert (first.value, second.value) == ({"text": "a"}, {"text": "a"})
    assert (first.cache_status.kind, second.cache_status.kind) == ("miss", "hit")
    assert (second.model, second.model_version, second.age_s) == ("echo", "1", 0)
    assert model.calls == ["a"]


async def ask_while_it_is_cached(client: PredictionClient) -> None:
    """Again and again, for nothing but what is cached."""
    while True:
        await client.ask("echo", {"text": "a"}, timeout_s=10, cache_control="only-if-cached")


async def test_an_answer_expires_with_its_time_to_live(servers: Servers, namespace: str) -> None:
    """One call per key and window; those who take nothing but what is cached have it refreshed for nobody."""
    model = GatedModel(is_open=True)
    async with (
        embedded(model.predictor(ttl_s=0.3), settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
    ):
        began = time.monotonic()
        for _ in range(4):
            assert (await client.ask("echo", {"text": "a"}, timeout_s=10)).cache_status.kind == "miss"
            with pytest.raises(PredictionError, match="nothing usable is cached"):
                await ask_while_it_is_cached(client)
    assert time.monotonic() - began >= 4 * 0.9 * 0.3
    assert len(model.calls) == 4


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_a_cancelled_requester_disturbs_nobody(servers: Servers, namespace: str, who: str) -> None:
    """Through the client, the broker and the responder."""
    model = GatedModel()
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
    ):
        leader = asyncio.create_task(client.predict("echo", {"text": "a"}, timeout_s=10))
        await model.begun.wait()
        followers = [asyncio.create_task(client.predict("echo", {"text": "a"}, timeout_s=10)) for _ in range(5)]
        await asyncio.sleep(0)
        cancelled = leader if who == "leader" else followers[0]
        cancelled.cancel()
        model.gate.set()
        results = await asyncio.gather(leader, *followers, return_exceptions=True)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 1
    assert [result for result in results if isinstance(result, dict)] == [{"text": "a"}] * 5
    assert len(model.calls) == 1


async def test_a_waiting_request_whose_sender_is_gone_is_acknowledged(servers: Servers, namespace: str) -> None:
    """Its reply cannot be delivered; it is never requeued, for it would be computed for nobody."""
    model = GatedModel()
    async with embedded(model.predictor(), settings(servers, namespace)) as responder:
        async with ForeignClient.connected(servers.amqp_url) as gone:
            await gone.send(f"{namespace}predictions.echo", b'{"text":"a"}')
            await model.begun.wait()
        model.gate.set()
        async with ForeignClient.connected(servers.amqp_url) as other:
            _, body = await other.ask(f"{namespace}predictions.echo", b'{"text":"a"}')
            assert body == {"result": {"text": "a"}}
        await until(lambda: not responder.unsettled)
    async with ForeignClient.connected(servers.amqp_url) as other:
        assert await other.depth(f"{namespace}predictions.echo") == 0
        assert await other.depth(f"{namespace}predictions.dead") == 0  # where a loop of redeliveries ends
    assert model.calls == ["a"]


async def test_the_identifier_is_echoed_and_the_reply_says_where_it_came_from(servers: Servers, namespace: str) -> None:
    """Every property of the wire contract's reply, through the named exchange and the default one."""
    model = GatedModel(is_open=True)
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        await client.send(
            "echo",
            b'{"text":"a"}',
            exchange=f"{namespace}predictions",
            correlation_id="any thing, 255 bytes at most",
            message_id="never echoed",
            expiration=30,
            headers={"traceparent": trace, "unknown": "ignored", "CC": ["elsewhere"]},
        )
        reply = await client.reply()
        assert reply.body == b'{"result":{"text":"a"}}'
        assert (reply.type, reply.content_type) == ("result", "application/json")
        assert reply.correlation_id == "any thing, 255 bytes at most"
        assert reply.message_id != "never echoed"
        assert (reply.reply_to, reply.user_id) == (None, None)
        assert 0 < float(str(reply.expiration)) <= 30
        headers = {name: value for name, value in reply.headers.items() if name != "duration-ms"}
        assert headers == {
            "age": "0",
            "cache-status": "responder; fwd=miss; stored",
            "model": "echo",
            "model-version": "1",
            "traceparent": trace,
            "wire": "1",
        }
        reply, _ = await client.ask(
            f"{namespace}predictions.echo", b'{"text":"a"}', correlation_id=None, message_id="m1"
        )
        assert reply.correlation_id == "m1"
        assert reply.headers["age"] == "0"
        assert str(reply.headers["cache-status"]).startswith("responder; hit; ttl=")


@pytest.mark.parametrize("kind", ["rows", "order.created", "CALL", "é" * 30])
async def test_a_message_of_an_unknown_type_is_refused(servers: Servers, namespace: str, kind: str) -> None:
    """400 names the type that is known; the model is not called, and the next request is answered."""
    model = GatedModel(is_open=True)
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        queue = f"{namespace}predictions.echo"
        reply, body = await client.ask(queue, b'{"text":"a"}', type=kind)
        error = body["error"]
        assert (reply.type, error["code"], error["status"]) == ("error", "INVALID_ARGUMENT", 400)
        assert "'call'" in error["message"]
        assert model.calls == []
        for known in ("", "call", None):
            _, body = await client.ask(queue, b'{"text":"a"}', type=known)
            assert body == {"result": {"text": "a"}}


async def test_direct_reply_to_is_answered(servers: Servers, namespace: str) -> None:
    """RabbitMQ's own pseudo-queue, as the tutorials of other languages use it."""
    model = GatedModel(is_open=True)
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        replies: asyncio.Queue[bytes] = asyncio.Queue()
        under = await client.channel.get_underlay_channel()

        async def take(message: object) -> None:
            replies.put_nowait(message.body)  # type: ignore[attr-defined]

        await under.basic_consume("amq.rabbitmq.reply-to", take, no_ack=True)
        await client.send(f"{namespace}predictions.echo", b'{"text":"a"}', reply_to="amq.rabbitmq.reply-to")
        assert await asyncio.wait_for(replies.get(), 10) == b'{"result":{"text":"a"}}'


async def test_a_request_without_reply_address_warms_the_cache(servers: Servers, namespace: str) -> None:
    """Nobody is answered, and the answer is there."""
    model = GatedModel(is_open=True)
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        ForeignClient.connected(servers.amqp_url) as client,
    ):
        await client.send(f"{namespace}predictions.echo", b'{"text":"a"}', reply_to=None)
        await model.begun.wait()
        reply, _ = await client.ask(f"{namespace}predictions.echo", b'{"text":"a"}')
        assert model.calls == ["a"]
        assert reply.headers["cache-status"] != "responder; fwd=miss; stored"


async def test_an_unknown_model_is_a_typed_error(pace: Pace, servers: Servers, namespace: str) -> None:
    """No queue takes it, and the client says so at once."""
    async with PredictionClient(servers.amqp_url, namespace=namespace) as client:
        began = time.monotonic()
        with pytest.raises(UnknownModel, match="'nobody'"):
            await client.predict("nobody", {}, timeout_s=10)
        assert time.monotonic() - began < 2 * pace.now()


async def test_redis_empty_stopped_and_stopped_in_the_middle_costs_no_answer(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """0 errors and right answers; a stopped Redis adds nothing, and 2 s after its return answers are cached again."""
    with own_redis(tmp_path) as redis:
        chosen = settings(servers, namespace, REDIS_URL=redis.url, redis_timeout_s=0.2)
        async with (
            embedded(oracle, chosen),
            PredictionClient(servers.amqp_url, namespace=namespace) as client,
        ):

            async def ask(number: int) -> float:
                began = time.perf_counter()
                assert await client.predict("oracle", {"number": number}, timeout_s=10) == {"square": number**2}
                return time.perf_counter() - began

            empty = [await ask(number) for number in range(20)]
            running = [asyncio.create_task(ask(number)) for number in range(100, 160)]
            await asyncio.sleep(0)
            redis.kill()
            await asyncio.gather(*running)
            stopped = [await ask(number) for number in range(20)]
            redis.start()
            async with asyncio.timeout(2):
                while (await client.ask("oracle", {"number": 1}, timeout_s=10)).cache_status.kind != "hit":
                    pass
    assert max(empty) < 1.0 * pace.now()
    assert max(stopped) < 0.2 * pace.now()


async def test_a_frozen_redis_delays_by_the_operation_timeout_and_no_more(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path
) -> None:
    """It accepts connections and says nothing. The first request waits for it, the next ones do not."""
    with own_redis(tmp_path) as redis:
        chosen = settings(servers, namespace, REDIS_URL=redis.url, redis_timeout_s=0.2)
        async with embedded(oracle, chosen), PredictionClient(servers.amqp_url, namespace=namespace) as client:
            await client.predict("oracle", {"number": 1}, timeout_s=10)
            redis.freeze()
            began = time.perf_counter()
            assert await client.predict("oracle", {"number": 1}, timeout_s=10) == {"square": 1}
            took = time.perf_counter() - began
            began = time.perf_counter()
            for _ in range(20):
                await client.predict("oracle", {"number": 1}, timeout_s=10)
            later = (time.perf_counter() - began) / 20
            redis.thaw()
    assert took < 0.2 + 0.3 * pace.now()
    assert later < 0.05 * pace.now()


async def test_two_tenants_get_their_own_answers(servers: Servers, namespace: str) -> None:
    """The header makes the namespace of the key."""
    model = GatedModel(is_open=True)
    async with (
        embedded(model.predictor(), settings(servers, namespace)),
        PredictionClient(servers.amqp_url, namespace=namespace) as client,
    ):
        kinds = [
            (await client.ask("echo", {"text": "a"}, tenant=tenant, timeout_s=10)).cache_status.kind
            for tenant in ("one", "two", "one", None)
        ]
    assert kinds == ["miss", "miss", "hit", "miss"]
