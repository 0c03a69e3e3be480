"""What every transport promises of its consumers and publishers, in memory and on RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from amqp_lane import Amqp, Consumer, Delivery, Fate, MemoryBroker, Message, Publisher, QueueSpec, Settlement, Transport
from deploy.found import Servers
from tests.real import until


@pytest.fixture(params=["memory", pytest.param("rabbitmq", marks=pytest.mark.servers)])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each of them."""
    if request.param == "memory":
        return MemoryBroker()
    servers: Servers = request.getfixturevalue("servers")
    return Amqp(servers.amqp_url)


class Reader:
    """Notes which queue each delivery came from, and acknowledges it."""

    def __init__(self, inbox: Consumer) -> None:
        self.seen: list[tuple[str, bytes | None]] = []
        self._inbox = inbox

    async def run(self) -> None:
        """Until the inbox stops."""
        async for batch in self._inbox:
            self.seen += [(one.queue[-1], one.body) for one in batch]
            self._inbox.settle(batch, Settlement.ACK)


@asynccontextmanager
async def reading(
    transport: Transport, namespace: str
) -> AsyncIterator[tuple[Consumer, Publisher, Reader, list[Fate]]]:
    """Two queues, a and b, that are read."""
    fates: list[Fate] = []

    def note(messages: list[Message], fate: Fate) -> None:
        fates.extend([fate] * len(messages))

    queues = [QueueSpec(f"{namespace}{name}") for name in "ab"]
    inbox = transport.inbox(queues, name="reader", prefetch=10)
    outbox = transport.outbox(name="writer", on_fate=note)
    async with inbox, outbox:
        await inbox.consuming()
        await outbox.up()
        reader = Reader(inbox)
        task = asyncio.ensure_future(reader.run())
        yield inbox, outbox, reader, fates
        await inbox.stop()
        await task


async def test_a_paused_queue_keeps_its_messages_and_its_neighbour_goes_on(
    transport: Transport, namespace: str
) -> None:
    """Also over a lost connection; resumed, they come in their order."""
    a, b = f"{namespace}a".encode(), f"{namespace}b".encode()
    async with reading(transport, namespace) as (inbox, outbox, reader, fates):
        await inbox.pause(f"{namespace}a")
        await inbox.pause(f"{namespace}a")  # once more changes nothing
        outbox.send([Message(queue, b"%d" % number) for number in range(5) for queue in (a, b)])
        await until(lambda: len(reader.seen) == 5 and len(fates) == 10)
        inbox.restart("a test")
        await until(lambda: inbox.is_consuming)
        outbox.send([Message(b, b"5")])
        await until(lambda: len(reader.seen) == 6)
        assert {queue for queue, _ in reader.seen} == {"b"}
        await inbox.resume(f"{namespace}a")
        await inbox.resume(f"{namespace}a")
        await until(lambda: len(reader.seen) == 11)
        assert [body for queue, body in reader.seen if queue == "a"] == [b"0", b"1", b"2", b"3", b"4"]
        for _ in range(20):
            await asyncio.gather(inbox.pause(f"{namespace}a"), inbox.resume(f"{namespace}a"))
        outbox.send([Message(a, b"6")])
        await until(lambda: reader.seen[-1] == ("a", b"6"))
    assert set(fates) == {Fate.CONFIRMED}


async def test_a_message_that_is_withdrawn_before_it_is_written_is_not_sent(
    transport: Transport, namespace: str
) -> None:
    """It is abandoned; the one behind it is sent."""
    fates: dict[bytes, Fate] = {}

    def note(messages: list[Message], fate: Fate) -> None:
        fates.update((one.body, fate) for one in messages)

    inbox = transport.inbox([QueueSpec(f"{namespace}a")], name="reader", prefetch=10)
    outbox = transport.outbox(name="writer", on_fate=note)
    withdrawn, sent = Message(f"{namespace}a".encode(), b"1"), Message(f"{namespace}a".encode(), b"2")
    seen: list[Delivery] = []
    async with inbox:
        await inbox.consuming()
        async with outbox:
            outbox.send([Message(f"{namespace}a".encode(), b"0")])  # the first of a turn may be written at once
            outbox.send([withdrawn, sent])
            withdrawn.withdraw()
            await outbox.up()
            await outbox.drained()
        async for batch in inbox:
            seen += batch
            inbox.settle(batch, Settlement.ACK)
            if len(seen) == 2:
                await inbox.stop()
    assert [one.body for one in seen] == [b"0", b"2"]
    assert fates == {b"0": Fate.CONFIRMED, b"1": Fate.ABANDONED, b"2": Fate.CONFIRMED}


async def test_an_option_that_no_transport_has_is_refused(transport: Transport) -> None:
    """By both, so that tests in memory find a misspelt one."""
    with pytest.raises(TypeError, match="prefech"):
        transport.inbox([], name="a", prefetch=1, prefech=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="on_fates"):
        transport.outbox(name="a", on_fate=lambda *_: None, on_fates=1)  # type: ignore[call-arg]


async def test_only_a_queue_that_is_consumed_can_be_paused_and_only_until_the_end(
    transport: Transport, namespace: str
) -> None:
    """One that is only declared, or unknown, is an error that changes nothing; a stopped inbox consumes no more."""
    queues = [QueueSpec(f"{namespace}a"), QueueSpec(f"{namespace}dead", consume=False)]
    inbox = transport.inbox(queues, name="reader", prefetch=1)
    outbox = transport.outbox(name="writer", on_fate=lambda *_: None)
    async with inbox, outbox:
        for wrong in (f"{namespace}dead", f"{namespace}nowhere"):
            with pytest.raises(ValueError, match="does not consume"):
                await inbox.pause(wrong)
            with pytest.raises(ValueError, match="does not consume"):
                await inbox.resume(wrong)
        await inbox.resume(f"{namespace}a")  # before it is set up: nothing is consumed without the prefetch
        await inbox.consuming()
        await outbox.up()
        await inbox.pause(f"{namespace}a")
        await inbox.stop()
        await inbox.resume(f"{namespace}a")
        outbox.send([Message(f"{namespace}a".encode(), b"1")])
        await outbox.drained()
        assert inbox.unsettled == 0
    again = transport.inbox(queues[:1], name="reader", prefetch=1)
    async with again:
        async for batch in again:
            assert [one.body for one in batch] == [b"1"]
            again.settle(batch, Settlement.ACK)
            await again.stop()
