"""Sockets that are cut, held and closed under the lane: nothing is lost, and no exception escapes."""

import asyncio

import pytest

from deploy.found import Servers
from tests.lanes import Echo, Witness, escaped_errors
from tests.pace import Pace
from tests.proxy import DOWN, UP, Proxy
from tests.real import until

pytestmark = pytest.mark.servers

CUTS = 300
TRIED = 330  # a conversation may be a few bytes shorter than the first one, and then ends before its cut
AT_ONCE = 10
ASKED = 4


async def test_a_socket_cut_at_any_byte_of_a_conversation_loses_nothing(servers: Servers, namespace: str) -> None:
    """300 cuts, spread over both connections, both directions and all bytes from the handshake to the last ack."""
    async with Witness.connected(servers.amqp_url) as witness:
        whole = (await _conversation(servers, witness, f"{namespace}whole", None)).passed
        places = [(number, way, size) for (number, way), size in sorted(whole.items())]
        total = sum(size for _, _, size in places)
        cuts = [_place(places, 1 + total * cut // TRIED) for cut in range(TRIED)]
        done = 0
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(index: int) -> None:
            nonlocal done
            async with limit:
                proxy = await _conversation(servers, witness, f"{namespace}{index}", cuts[index])
                done += proxy.cuts

        with escaped_errors():
            async with asyncio.TaskGroup() as group:
                for index in range(TRIED):
                    group.create_task(one(index))
        assert done >= CUTS


def _place(places: list[tuple[int, str, int]], byte: int) -> tuple[int, str, int]:
    for number, way, size in places:
        if byte <= size:
            return number, way, byte
        byte -= size
    return places[-1]


async def _conversation(servers: Servers, witness: Witness, queue: str, cut: tuple[int, str, int] | None) -> Proxy:
    """Requests, replies and acknowledgements; with one connection cut after so many bytes in one direction."""
    identifiers = [f"{queue}-{number}" for number in range(ASKED)]
    await witness.declare(queue, {"x-queue-type": "classic"})
    await witness.ask(queue, identifiers)
    limits = {} if cut is None else {(cut[0], cut[1]): cut[2]}
    async with Proxy.running(servers.amqp_url, lambda number, way: limits.get((number, way))) as proxy:
        options = {"arguments": {"x-queue-type": "classic"}, "prefetch": 2}
        async with Echo.running(proxy.url(servers.amqp_url), queue, **options) as echo:
            await until(lambda: all(one in witness.replies for one in identifiers), timeout_s=30)
            await until(lambda: not echo.inbox.unsettled and not echo.outbox.unconfirmed, timeout_s=30)
    # An acknowledgement that was cut off brings its request back, perhaps only now: whoever consumes next finishes it.
    async with Echo.running(servers.amqp_url, queue, **options) as echo:
        await echo.up()
        async with asyncio.timeout(10):
            while await witness.depth(queue) or echo.inbox.unsettled:
                pass
    await witness.channel.queue_delete(queue)
    return proxy


async def test_closing_into_a_peer_that_reads_nothing_ends(pace: Pace, servers: Servers, namespace: str) -> None:
    """A goodbye that nobody hears is not waited for."""
    async with Witness.connected(servers.amqp_url) as witness, Proxy.running(servers.amqp_url) as proxy:
        await witness.declare(namespace)
        echo = Echo.running(proxy.url(servers.amqp_url), namespace)
        one = await echo.__aenter__()
        await one.up()
        proxy.hold(UP)
        proxy.hold(DOWN)
        await witness.ask(namespace, ["a"])
        began = asyncio.get_running_loop().time()
        await echo.__aexit__(None, None, None)
        assert asyncio.get_running_loop().time() - began < 10 * pace.now()


async def test_a_silent_network_is_noticed(servers: Servers, namespace: str) -> None:
    """Nothing passes, nothing is closed: detected within three heartbeats and a little, and mended."""
    async with Witness.connected(servers.amqp_url) as witness, Proxy.running(servers.amqp_url) as proxy:
        await witness.declare(namespace)
        async with Echo.running(proxy.url(servers.amqp_url), namespace, heartbeat_s=1) as echo:
            await echo.up()
            proxy.hold(UP)
            proxy.hold(DOWN)
            await until(lambda: not echo.inbox.is_consuming, timeout_s=3 * (1 + 1) + 2)
            proxy.release(UP)
            proxy.release(DOWN)
            await witness.ask(namespace, ["a"])
            await until(lambda: "a" in witness.replies)


async def test_confirms_that_were_held_up_do_not_count_for_the_next_connection(
    servers: Servers, namespace: str
) -> None:
    """A reply whose confirm was lost is sent again; its request is settled once."""
    async with Witness.connected(servers.amqp_url) as witness, Proxy.running(servers.amqp_url) as proxy:
        await witness.declare(namespace)
        through = proxy.url(servers.amqp_url)
        with escaped_errors():
            async with Echo.running(through, namespace, inbox_url=servers.amqp_url) as echo:
                await echo.up()
                proxy.hold(DOWN)
                names = [str(number) for number in range(20)]
                await witness.ask(namespace, names)
                await until(lambda: len(witness.replies) == 20)
                assert echo.inbox.unsettled == 20
                proxy.cut()
                proxy.release(DOWN)
                await until(lambda: not echo.inbox.unsettled)
                assert len(echo.fates) == 20
        assert {len(replies) for replies in witness.replies.values()} == {2}


async def test_a_connection_lost_while_it_stops_does_not_hold_it_up(servers: Servers, namespace: str) -> None:
    """Stopping ends, and what was not settled is back in the queue."""
    async with Witness.connected(servers.amqp_url) as witness, Proxy.running(servers.amqp_url) as proxy:
        await witness.declare(namespace)
        async with Echo.running(proxy.url(servers.amqp_url), namespace, inbox_url=None) as echo:
            await echo.up()
            proxy.hold(DOWN)
            await witness.ask(namespace, ["a", "b"])
            stopping = asyncio.create_task(echo.inbox.stop())
            await asyncio.sleep(0)
            proxy.cut()
            async with asyncio.timeout(5):
                await stopping
        async with Echo.running(servers.amqp_url, namespace):
            await until(lambda: {"a", "b"} <= witness.replies.keys())
