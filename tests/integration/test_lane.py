"""The lane alone, on a real broker: every kind of message, every ending of a channel."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from yarl import URL

from amqp_lane import Delivery, Fate, Inbox, Message, Outbox, Properties, QueueSpec, Settlement
from deploy.found import Servers
from deploy.processes import BrokerProcess
from tests.lanes import Echo, Witness, escaped_errors
from tests.pace import Pace
from tests.proxy import DOWN, UP, Proxy
from tests.real import free_port, until
from tests.tls import Authority

pytestmark = pytest.mark.servers


async def test_bodies_of_any_size_come_back_whole(servers: Servers, namespace: str) -> None:
    """Empty, at the edges of a frame, and over many frames; small ones between large ones."""
    sizes = [0, 1, 131_063, 131_064, 131_065, 262_128, 3, 2_000_000, 0]
    async with Witness.connected(servers.amqp_url) as witness, Echo.running(servers.amqp_url, namespace) as echo:
        await echo.up()
        for size in sizes * 3:
            body = bytes(number % 251 for number in range(size % 1000)) * (size // 1000 or 1)
            await witness.ask(namespace, [str(len(body))], body)
            witness.sent[str(len(body))] = body
        await until(lambda: witness.replies.keys() == witness.sent.keys() and len(echo.fates) == len(sizes) * 3)
    for name, bodies in witness.replies.items():
        assert set(bodies) == {witness.sent[name]}


async def test_one_inbox_consumes_several_queues(servers: Servers, namespace: str) -> None:
    """And says of each delivery where it came from."""
    names = [f"{namespace}{number}" for number in range(5)]
    inbox = Inbox(servers.amqp_url, [QueueSpec(name) for name in names], name="many", prefetch=10)
    async with Witness.connected(servers.amqp_url) as witness, inbox:
        await inbox.consuming()
        for name in names:
            await witness.ask(name, [f"{name}-{number}" for number in range(20)])
        seen: list[Delivery] = []
        async for batch in inbox:
            seen += batch
            inbox.settle(batch, Settlement.ACK)
            if len(seen) == 100:
                await inbox.stop()
    assert all((one.properties.correlation_id or b"").decode().startswith(f"{one.queue}-") for one in seen)


async def test_an_oversized_message_is_skipped_on_arrival_and_refused_on_departure(
    servers: Servers, namespace: str
) -> None:
    """Its neighbours are not hurt, and no connection is lost."""
    fates: list[tuple[bytes, Fate]] = []
    outbox = Outbox(
        servers.amqp_url,
        name="small",
        on_fate=lambda messages, fate: fates.extend((one.body[:1], fate) for one in messages),
        max_body_bytes=1000,
    )
    inbox = Inbox(servers.amqp_url, [QueueSpec(namespace)], name="small", prefetch=10, max_body_bytes=500)
    async with outbox, inbox:
        await inbox.consuming()
        bodies = (b"a", b"b" * 500, b"c" * 501, b"d" * 1001, b"e")
        outbox.send([Message(namespace.encode(), body) for body in bodies])
        seen: list[bytes | None] = []
        async for batch in inbox:
            seen += [one.body for one in batch]
            inbox.settle(batch, Settlement.ACK)
            if len(seen) == 4:
                await inbox.stop()
        await outbox.drained()
        assert (epoch_of(inbox), epoch_of(outbox)) == (1, 1)
    assert seen == [b"a", b"b" * 500, None, b"e"]
    assert dict(fates) == {b"d": Fate.REFUSED} | dict.fromkeys((b"a", b"b", b"c", b"e"), Fate.CONFIRMED)


async def test_a_return_is_matched_to_its_own_message(servers: Servers, namespace: str) -> None:
    """Among others that have the same correlation id."""
    fates: dict[int, Fate] = {}
    outbox = Outbox(
        servers.amqp_url,
        name="returns",
        on_fate=lambda messages, fate: fates.update({one.token: fate for one in messages}),
    )
    async with Witness.connected(servers.amqp_url) as witness, outbox:
        await witness.declare(namespace)
        await outbox.up()
        same = b"the same"
        keys = [b"nowhere" if number % 3 == 0 else namespace.encode() for number in range(300)]
        outbox.send([Message(key, b"x", correlation_id=same, token=number) for number, key in enumerate(keys)])
        await outbox.drained()
    assert {number for number, fate in fates.items() if fate is Fate.RETURNED} == set(range(0, 300, 3))
    assert len(fates) == 300


async def test_a_channel_that_the_broker_closes_ends_its_tags_at_once(servers: Servers, namespace: str) -> None:
    """What was delivered on it is settled by nobody, comes again, and is settled once under its new tags."""
    inbox = Inbox(servers.amqp_url, [QueueSpec(namespace)], name="closed", prefetch=100)
    async with Witness.connected(servers.amqp_url) as witness, inbox:
        await inbox.consuming()
        await witness.ask(namespace, [str(number) for number in range(50)])
        old: list[Delivery] = []
        new: list[Delivery] = []
        with escaped_errors():
            async for batch in inbox:
                if len(old) < 50:
                    old += batch
                    if len(old) == 50:
                        # A tag that the broker does not know: it closes the channel (406).
                        stranger = Delivery(namespace, b"", Properties(), False, 999, old[0].epoch)  # noqa: FBT003
                        inbox.settle([stranger], Settlement.DEAD_LETTER)
                        await until(lambda: not inbox.is_consuming)
                        inbox.settle(old, Settlement.ACK)  # too late: their epoch has ended
                        await inbox.consuming()
                        inbox.settle(old, Settlement.ACK)
                        inbox.settle(old, Settlement.REQUEUE)
                else:
                    new += batch
                    if len(new) == 50:
                        assert inbox.unsettled == 50  # the old tags have settled none of the new ones
                        inbox.settle(new, Settlement.ACK)
                        await inbox.stop()
        assert {one.epoch for one in old} == {1}
        assert {one.epoch for one in new} == {2}
        assert {one.properties.correlation_id for one in new} == {one.properties.correlation_id for one in old}
        assert epoch_of(inbox) == 2
    async with Witness.connected(servers.amqp_url) as witness:
        assert await witness.depth(namespace) == 0


async def test_a_full_queue_gets_its_message_when_there_is_room(servers: Servers, namespace: str) -> None:
    """The broker refuses it until then; without retries it is REFUSED, and a channel is not given up for it at once."""
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    fates: dict[str, list[Fate]] = {"patient": [], "not": []}
    patient = Outbox(
        servers.amqp_url,
        name="patient",
        on_fate=lambda messages, fate: fates["patient"].extend([fate] * len(messages)),
        nack_retries=5,
    )
    hasty = Outbox(
        servers.amqp_url, name="not", on_fate=lambda messages, fate: fates["not"].extend([fate] * len(messages))
    )
    message = (namespace.encode(), b"x")
    async with Witness.connected(servers.amqp_url) as witness, patient, hasty:
        await witness.declare(namespace, {"x-queue-type": "classic", **arguments})
        await hasty.up()
        hasty.send([Message(*message)])
        await hasty.drained()
        hasty.send([Message(*message)])
        await hasty.drained()
        assert fates["not"] == [Fate.CONFIRMED, Fate.REFUSED]
        patient.send([Message(*message)])
        await until(lambda: "unconfirmed=0" in repr(patient) and patient.unconfirmed == 1)
        await (await witness.channel.get_queue(namespace)).purge()
        await patient.drained()
        assert fates["patient"] == [Fate.CONFIRMED]
        assert epoch_of(hasty) == 1


async def test_a_channel_that_is_refused_everything_is_given_up(pace: Pace, servers: Servers, namespace: str) -> None:
    """RabbitMQ 3.10 refuses a channel for ever that published to a quorum queue between two leaders."""
    refused: list[Fate] = []
    outbox = Outbox(
        servers.amqp_url, name="refused", on_fate=lambda messages, fate: refused.extend([fate] * len(messages))
    )
    async with Witness.connected(servers.amqp_url) as witness, outbox:
        full = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
        await witness.declare(namespace, full)
        await witness.ask(namespace, ["fills it"])
        await outbox.up()
        began = time.monotonic()
        while epoch_of(outbox) == 1:
            assert time.monotonic() - began < 5 * pace.now()
            outbox.send([Message(namespace.encode(), b"x")])
            await outbox.drained()
        assert 1.0 <= time.monotonic() - began < 3.0 * pace.now()
        for _ in range(20):  # not again and again
            outbox.send([Message(namespace.encode(), b"x")])
            await outbox.drained()
        assert epoch_of(outbox) == 2
    assert set(refused) == {Fate.REFUSED}


async def test_refusals_now_and_then_cost_no_channel(servers: Servers, namespace: str) -> None:
    """One now and one later are two full queues, and not a channel that is refused everything."""
    outbox = Outbox(servers.amqp_url, name="now and then", on_fate=lambda _messages, _fate: None)
    async with Witness.connected(servers.amqp_url) as witness, outbox:
        full = {"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "reject-publish"}
        await witness.declare(namespace, full)
        await witness.ask(namespace, ["fills it"])
        await outbox.up()
        for _ in range(3):
            outbox.send([Message(namespace.encode(), b"x")])
            await outbox.drained()
            await asyncio.sleep(1.1)  # longer than the patience with a channel
        assert epoch_of(outbox) == 1


async def test_a_socket_that_takes_no_more_holds_messages_back(servers: Servers, namespace: str) -> None:
    """Back-pressure: what the socket does not take waits in the outbox, and all of it goes when it takes more."""
    fates: list[Fate] = []
    async with Witness.connected(servers.amqp_url) as witness, Proxy.running(servers.amqp_url) as proxy:
        await witness.declare(namespace)
        outbox = Outbox(
            proxy.url(servers.amqp_url),
            name="slow",
            on_fate=lambda messages, fate: fates.extend([fate] * len(messages)),
        )
        async with outbox:
            await outbox.up()
            proxy.hold(UP)
            sent = waiting = 0
            while waiting <= 50 and sent < 2000:  # how much the kernel's buffers take differs
                outbox.send([Message(namespace.encode(), b"x" * 100_000)])
                sent += 1
                await asyncio.sleep(0)
                waiting = int(re.findall(r"waiting=(\d+)", repr(outbox))[0])
            assert waiting > 50
            proxy.release(UP)
            await outbox.drained()
        assert fates == [Fate.CONFIRMED] * sent


async def test_heartbeats_go_both_ways_in_silence_and_under_load(servers: Servers, namespace: str) -> None:
    """At one second a connection outlives silence, and a stream of messages that leaves no time for heartbeats."""
    async with (
        Witness.connected(servers.amqp_url) as witness,
        Echo.running(servers.amqp_url, namespace, heartbeat_s=1) as echo,
    ):
        await echo.up()
        ends = asyncio.get_running_loop().time() + 7
        quiet = ends - 3
        number = 0
        while asyncio.get_running_loop().time() < quiet:
            number += 1
            await witness.ask(namespace, [f"{number}-{one}" for one in range(20)])
        await until(lambda: len(witness.replies) == number * 20)
        await asyncio.sleep(ends - asyncio.get_running_loop().time())
        await witness.ask(namespace, ["after"])
        await until(lambda: "after" in witness.replies)
        assert (epoch_of(echo.inbox), epoch_of(echo.outbox)) == (1, 1)


async def test_replies_that_the_broker_does_not_read_do_not_stop_consuming(servers: Servers, namespace: str) -> None:
    """Two connections: one that is stuck touches the other not at all."""
    async with (
        Witness.connected(servers.amqp_url) as witness,
        Proxy.running(servers.amqp_url) as proxy,
        Echo.running(proxy.url(servers.amqp_url), namespace, inbox_url=servers.amqp_url) as echo,
    ):
        await echo.up()
        proxy.hold(UP)
        proxy.hold(DOWN)
        await witness.ask(namespace, [str(number) for number in range(100)])
        await until(lambda: len(echo.seen) == 100)
        assert not witness.replies
        proxy.release(UP)
        proxy.release(DOWN)
        await until(lambda: len(witness.replies) == 100)


@pytest.fixture
def tls_broker(tmp_path: Path) -> Iterator[str]:
    """A broker that speaks TLS only to those who trust its authority; the URL names the authority's file."""
    authority = Authority(tmp_path / "keys")
    authority.sign("server")
    port = free_port()
    with BrokerProcess.prepared(tmp_path / "rabbitmq") as broker:
        broker.configure(
            *authority.listener(port),
        )
        broker.start()
        yield str(URL(f"amqps://guest:guest@localhost:{port}/").with_query(cafile=authority.file("ca.pem")))


async def test_tls_carries_the_same_batches(tls_broker: str, namespace: str) -> None:
    """The lane's protocol stands on the TLS transport; without the authority there is no connection."""
    sent = {str(number): b"x" * number * 1000 for number in range(100)}
    inbox = Inbox(tls_broker, [QueueSpec(namespace)], name="tls", prefetch=50)
    fates: list[Fate] = []
    outbox = Outbox(tls_broker, name="tls", on_fate=lambda messages, fate: fates.extend([fate] * len(messages)))
    async with inbox, outbox:
        async with asyncio.timeout(10):
            await inbox.consuming()
            await outbox.up()
        messages = [Message(namespace.encode(), body, correlation_id=name.encode()) for name, body in sent.items()]
        outbox.send(messages)
        seen: dict[str, bytes | None] = {}
        async for batch in inbox:
            seen |= {(one.properties.correlation_id or b"").decode(): one.body for one in batch}
            inbox.settle(batch, Settlement.ACK)
            if len(seen) == len(sent):
                await inbox.stop()
        await outbox.drained()
    assert seen == sent
    stranger = Inbox(str(URL(tls_broker).with_query({})), [QueueSpec(namespace)], name="stranger", prefetch=1)
    async with stranger:
        await until(lambda: stranger.last_error)
        assert "certificate" in str(stranger.last_error).lower()


async def test_why_messages_do_not_leave_is_known_between_two_refusals(servers: Servers, namespace: str) -> None:
    """The channel is open again, and the next refusal is not there yet: the reason is still the last one."""
    outbox = Outbox(servers.amqp_url, name="why", exchange=f"{namespace}nowhere", on_fate=lambda *_: None)
    reasons: set[str | None] = set()
    async with outbox:
        await outbox.up()
        assert outbox.last_error is None
        outbox.send([Message(b"anywhere", b"1")])
        while epoch_of(outbox) < 4:
            await asyncio.sleep(0)
            if outbox.is_up and epoch_of(outbox) > 1:
                reasons.add(outbox.last_error)
    assert reasons
    assert all(reason and "no exchange" in reason for reason in reasons)


def epoch_of(one: Inbox | Outbox) -> int:
    """How many connections it has had."""
    return int(re.findall(r"epoch=(\d+)", repr(one))[0])
