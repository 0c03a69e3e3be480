"""Messages that stop every aio-pika consumer for ever: here each is a request like any other, or an error reply."""

import asyncio
import json
import struct
import time
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from deploy.found import Servers
from deploy.processes import BrokerProcess
from tests.books import Report
from tests.lanes import Collector
from tests.models import oracle, wordy
from tests.pace import Pace
from tests.raw import RawWriter, Refused, short, table, text_field
from tests.real import ForeignClient, embedded, settings, until

pytestmark = pytest.mark.servers

CONTENT_TYPE, HEADERS, CORRELATION_ID, REPLY_TO = 0x8000, 0x2000, 0x0400, 0x0200
EXPIRATION, MESSAGE_ID, TIMESTAMP, TYPE, USER_ID, APP_ID = 0x0100, 0x0080, 0x0040, 0x0020, 0x0010, 0x0008
BAD = b"\xff\xfe\x80"  # no UTF-8
ANSWERED, REFUSED, SILENT = "a result", "an error", "no reply"


def nested(kind: bytes, depth: int) -> bytes:
    """A field value that holds itself so many times: tables or arrays."""
    value = b"t\x01"
    for _ in range(depth):
        inner = short(b"k") + value if kind == b"F" else value
        value = kind + struct.pack(">I", len(inner)) + inner
    return short(b"deep") + value


def field(name: bytes, kind: bytes, value: bytes) -> bytes:
    """Any field."""
    return short(name) + kind + value


def parts(**given: bytes) -> tuple[int, bytes]:
    """Flags and values, in the order of the specification; `reply_to` and `correlation_id` are filled in later."""
    order = {
        "content_type": CONTENT_TYPE,
        "headers": HEADERS,
        "correlation_id": CORRELATION_ID,
        "reply_to": REPLY_TO,
        "expiration": EXPIRATION,
        "message_id": MESSAGE_ID,
        "timestamp": TIMESTAMP,
        "type": TYPE,
        "app_id": APP_ID,
    }
    flags, values = 0, b""
    for name, bit in order.items():
        if name in given:
            flags |= bit
            raw = name in ("headers", "timestamp")
            values += given[name] if raw else short(given[name])
    return flags, values


# What is wrong with each, and what its sender gets. `{name: bytes}` replaces or adds a property.
VARIANTS: dict[str, tuple[dict[str, bytes], str]] = {
    "timestamp of 2^64 - 1": ({"timestamp": b"\xff" * 8}, ANSWERED),
    "timestamp of 2^63": ({"timestamp": struct.pack(">Q", 2**63)}, ANSWERED),
    "timestamp in nanoseconds": ({"timestamp": struct.pack(">Q", 1_700_000_000 * 10**9)}, ANSWERED),
    "timestamp in microseconds": ({"timestamp": struct.pack(">Q", 1_700_000_000 * 10**6)}, ANSWERED),
    "timestamp field of 2^64 - 1": ({"headers": table(field(b"t", b"T", b"\xff" * 8))}, ANSWERED),
    "correlation id that is not UTF-8": ({"correlation_id": BAD}, ANSWERED),
    "message id that is not UTF-8": ({"message_id": BAD}, ANSWERED),
    "app id that is not UTF-8": ({"app_id": BAD}, ANSWERED),
    "type that is not UTF-8": ({"type": BAD}, REFUSED),
    "content type that is not UTF-8": ({"content_type": BAD}, REFUSED),
    "reply address that is not UTF-8": ({"reply_to": BAD}, SILENT),
    "header name that is not UTF-8": ({"headers": table(text_field(BAD, b"x"))}, ANSWERED),
    "header value that is not UTF-8": ({"headers": table(text_field(b"x", BAD))}, ANSWERED),
    "empty header name": ({"headers": table(text_field(b"", b"x"))}, ANSWERED),
    "tenant that is a table": ({"headers": table(field(b"tenant", b"F", table()))}, REFUSED),
    "deadline that is an array": ({"headers": table(field(b"deadline", b"A", table()))}, ANSWERED),
    "tables in tables, 1,000 deep": ({"headers": table(nested(b"F", 1000))}, ANSWERED),
    "arrays in arrays, 1,000 deep": ({"headers": table(nested(b"A", 1000))}, ANSWERED),
    "5,000 header names": ({"headers": table(*(text_field(b"n%d" % one, b"") for one in range(5000)))}, ANSWERED),
    "a header of 120 KiB": ({"headers": table(text_field(b"big", b"x" * 120 * 1024))}, ANSWERED),
    "decimal with a scale of 255": ({"headers": table(field(b"d", b"D", b"\xff\xff\xff\xff\xff"))}, ANSWERED),
    "unknown field type": ({"headers": table(field(b"z", b"z", b""))}, REFUSED),
    "table that is longer than its frame": ({"headers": struct.pack(">I", 2**31) + b"\x01kS"}, REFUSED),
}


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
async def test_poison_amid_good_requests_stops_nothing(servers: Servers, namespace: str, queue_type: str) -> None:
    """At a prefetch of 200: every good one is answered, no reconnection, nothing dead-lettered, each poison answered.

    Some brokers refuse some variants; those never reach anybody.
    """
    queue, dead = f"{namespace}predictions.oracle", f"{namespace}predictions.dead"
    chosen = settings(servers, namespace, prefetch=200, queue_type=queue_type)
    async with (
        ForeignClient.connected(servers.amqp_url) as client,
        Collector.connected(servers.amqp_url, f"{namespace}replies") as collector,
    ):
        async with embedded(oracle, chosen) as responder:
            before = repr(responder)
            refused = set()
            for index, (variant, (wrong, _)) in enumerate(VARIANTS.items()):
                for number in range(index * 9, (index + 1) * 9):
                    await client.send(
                        queue, b'{"number": %d}' % number, correlation_id=f"good {number}", reply_to=collector.queue
                    )
                given = {"reply_to": collector.queue.encode(), "message_id": f"poison {variant}".encode()}
                given |= {"correlation_id": given["message_id"]} | wrong
                try:
                    async with RawWriter.connected(servers.amqp_url) as writer:
                        await writer.publish(queue, *parts(**given), b'{"number": 7}')
                except Refused:
                    refused.add(variant)
            good = {f"good {number}": number for number in range(len(VARIANTS) * 9)}
            expected = {name: what for name, (_, what) in VARIANTS.items() if name not in refused and what != SILENT}
            await until(lambda: len(collector.replies) == len(good) + len(expected))
            await until(lambda: not responder.unsettled)
            assert _epochs(before) == _epochs(repr(responder)) == ["1", "1"]
        assert await client.depth(dead) == 0
        assert await client.depth(queue) == 0
    answers = collector.replies
    assert {name: answers[name]["result"]["square"] for name in good} == {name: n * n for name, n in good.items()}
    kinds = {name: _kind(answers, name) for name in expected}
    assert kinds == expected
    assert len(refused) <= 4, refused


def _epochs(text: str) -> list[str]:
    return [part.partition(" ")[0] for part in text.split("epoch=")[1:]]


def _kind(answers: dict[str, Any], variant: str) -> str:
    answer = answers.get(f"poison {variant}")
    if answer is None:  # its correlation id was the broken part
        answer = next(body for name, body in answers.items() if not name.startswith(("good", "poison")))
    return ANSWERED if answer.get("result") == {"square": 49} else REFUSED


async def test_forged_addresses_and_our_own_queues_get_nothing_and_hurt_nobody(
    servers: Servers, namespace: str
) -> None:
    """Consuming goes on, neighbours are answered, nothing is written into our queues, and nothing loops."""
    queue, dead = f"{namespace}predictions.oracle", f"{namespace}predictions.dead"
    forged = [
        "amq.rabbitmq.reply-to.!!!!.abc",
        "amq.rabbitmq.reply-to.Z2hvc3Q=.abc",
        "amq.rabbitmq.reply-to.g2dkABBmb28.kX+//==",
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.a.b.c",
        "amq.direct.reply-to.",
        "amq.nothing.of.the.kind",
        f"{namespace}predictions.oracle",
        f"{namespace}predictions.dead",
        f"{namespace}predictions.other",
        "no such queue",
        "x" * 255,
    ]
    async with ForeignClient.connected(servers.amqp_url) as client:
        async with embedded(oracle, settings(servers, namespace)) as responder:
            replies: set[str] = set()
            async with asyncio.timeout(60):
                for number in range(120):
                    await client.send(queue, b'{"number": %d}' % number, correlation_id=str(number))
                    if number % 10 == 0:
                        await client.send(queue, b'{"number": 1}', reply_to=forged[number // 10], correlation_id="bad")
                while len(replies) < 120:  # a reply connection that was lost sends some again
                    replies.add(str((await client.reply()).correlation_id))
            assert replies == {str(number) for number in range(120)}
            await until(lambda: not responder.unsettled)
            assert _epochs(repr(responder))[0] == "1"
        assert await client.depth(queue) == 0
        assert await client.depth(dead) == 0


async def test_a_reply_connection_lost_to_a_stale_address_is_back_soon_and_not_lost_to_it_again(
    pace: Pace, servers: Servers, namespace: str
) -> None:
    """RabbitMQ 3.10 closes our connection for an address whose node has gone; later versions ignore it."""
    queue = f"{namespace}predictions.oracle"
    stale = await _genuine_direct_address(servers, namespace)
    node, _, key = stale.rpartition(".")
    async with (
        ForeignClient.connected(servers.amqp_url) as client,
        embedded(oracle, settings(servers, namespace)) as responder,
    ):
        await client.ask(queue, b'{"number": 2}')
        for address in (stale, f"{node[:-8]}AAAAAAA=.{key}", f"{node}.AAAA", "amq.rabbitmq.reply-to.Z2hvc3Q=.abc"):
            await client.send(queue, b'{"number": 3}', reply_to=address, correlation_id="stale")
            await until(lambda: not responder.unsettled)
            began = time.monotonic()
            await client.ask(queue, b'{"number": 4}')
            assert time.monotonic() - began < 0.2 + 0.2 * pace.now()
            before = _epochs(repr(responder))[1]
            for _ in range(5):
                await client.send(queue, b'{"number": 3}', reply_to=address, correlation_id="stale")
                await until(lambda: not responder.unsettled)
            assert _epochs(repr(responder))[1] == before
            await asyncio.sleep(1.1)  # what lost its connection a moment ago waits longer the next time


async def _ignore(_message: aio_pika.abc.AbstractIncomingMessage) -> None:
    """Nobody waits for it."""


async def _genuine_direct_address(servers: Servers, namespace: str) -> str:
    """What the broker makes of `amq.rabbitmq.reply-to`, as a responder sees it; its requester leaves."""
    async with await aio_pika.connect(servers.amqp_url) as ours, await aio_pika.connect(servers.amqp_url) as theirs:
        channel = await ours.channel()
        queue = await channel.declare_queue(f"{namespace}probe", exclusive=True)
        requester = await theirs.channel()
        direct = await requester.get_queue("amq.rabbitmq.reply-to", ensure=False)
        await direct.consume(_ignore, no_ack=True)
        probe = aio_pika.Message(b"", reply_to="amq.rabbitmq.reply-to")
        await requester.default_exchange.publish(probe, routing_key=queue.name)
        received = await queue.get(timeout=5)
        assert received is not None
        return str(received.reply_to)


@pytest.mark.own_servers
async def test_a_reply_that_the_broker_closes_the_channel_for_holds_up_nobody(
    pace: Pace, servers: Servers, namespace: str, tmp_path: Path, report: Report
) -> None:
    """It is above the broker's own limit, say: given up after three connections, and all others are answered soon."""
    with BrokerProcess.prepared(tmp_path / "rabbitmq") as broker:
        broker.configure("max_message_size = 20000")
        broker.start()
        local, waits = Servers(broker.url, servers.redis_url, "given"), []
        async with (
            embedded(wordy, settings(local, namespace, queue_type="classic")) as responder,
            ForeignClient.connected(broker.url) as poisoner,
            ForeignClient.connected(broker.url) as client,
        ):
            queue = f"{namespace}predictions.wordy"
            for turn in range(3):
                await poisoner.send(queue, b'{"number": %d}' % (30_000 + turn), correlation_id="too large")
                for number in range(100):
                    began = time.monotonic()
                    name = f"{turn}-{number}"
                    await client.send(queue, b'{"number": %d}' % number, correlation_id=name)
                    while (reply := await client.reply()).correlation_id != name:
                        pass  # what was written as the channel was closed is written again
                    assert json.loads(reply.body) == {"result": {"text": "a" * number}}
                    waits.append(time.monotonic() - began)
            await until(lambda: not responder.unsettled)
            connections = int(_epochs(repr(responder))[1])
        async with ForeignClient.connected(broker.url) as admin:
            assert await admin.depth(queue) == 0
    report("replies that close the channel", {"connections": connections, "longest wait s": round(max(waits), 2)})
    assert connections <= 1 + 3 * 3
    assert max(waits) < 3 * pace.now()
