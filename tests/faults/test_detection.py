"""What goes wrong around a responder is noticed in a stated time, said by readiness, and soon over when it is over."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from deploy.found import Servers
from deploy.processes import BrokerProcess
from tests.books import Report, Requester
from tests.proxy import DOWN, UP, Proxy
from tests.real import ForeignClient, ResponderProcess, responder_process, until
from tests.rights import SECRET, add_user, for_namespaces, with_user

pytestmark = [
    pytest.mark.servers,
    pytest.mark.own_servers,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]

# Attempts to connect are at most 5 s apart.
NOTICED_S, AGAIN_S = 1.0, 7.0
RIGHTS = r"[a-z0-9-]+\.predictions.*"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BrokerProcess]:
    """One whose users may be hurt."""
    with BrokerProcess.running(tmp_path_factory.mktemp("detection") / "rabbitmq") as one:
        add_user(one.control, "responder", for_namespaces)
        yield one


@asynccontextmanager
async def serving(
    servers: Servers, broker: BrokerProcess, namespace: str, **environment: str
) -> AsyncIterator[tuple[ResponderProcess, Requester]]:
    """A responder with the least rights, and a requester that keeps books; at the end all is answered, nothing lost."""
    local = Servers(with_user(broker.url), servers.redis_url, "given")
    with responder_process(local, namespace, "tests.models:oracle", **environment) as responder:
        async with Requester.connected(broker.url, f"{namespace}predictions.oracle") as requester:
            for number in range(20):
                requester.ask(number)
            assert await requester.all_answered(10)
            yield responder, requester
            assert await requester.all_answered(30), requester.books.row()
        async with ForeignClient.connected(broker.url) as client:
            assert await client.depth(f"{namespace}predictions.dead") == 0
    assert (requester.books.wrong, requester.books.unexpected) == (0, 0)


async def noticed(responder: ResponderProcess, words: str, within_s: float) -> float:
    """When its readiness says so, in seconds from now."""
    began = time.monotonic()
    while words not in await asyncio.to_thread(responder.read, "/readyz"):
        assert time.monotonic() - began < within_s, responder.read("/readyz")
        await asyncio.sleep(0.01)
    return round(time.monotonic() - began, 2)


async def again(responder: ResponderProcess) -> float:
    """When it is ready again, in seconds from now."""
    began = time.monotonic()
    await until(lambda: responder.probe("/readyz") == 200, AGAIN_S)
    return round(time.monotonic() - began, 2)


def note(report: Report, what: str, noticed_s: float, again_s: float) -> None:
    """A row of the table."""
    report(what, {"noticed s": noticed_s, "ready again s": again_s})


async def test_the_right_to_reply_is_lost(
    servers: Servers, broker: BrokerProcess, namespace: str, report: Report
) -> None:
    """RabbitMQ applies it to the next connection. Requests wait with the broker meanwhile, and are answered then."""
    async with serving(servers, broker, namespace) as (responder, requester):
        await control(broker, "set_permissions", "-p", "/", "responder", RIGHTS, RIGHTS, RIGHTS)
        await control(broker, "close_all_user_connections", "responder", "tests")
        for number in range(50):
            requester.ask(number)
        noticed_s = await noticed(responder, "cannot reply: BrokerRefusal: 403 ACCESS_REFUSED", NOTICED_S)
        await asyncio.sleep(5)  # longer than one reply is tried
        assert requester.books.open
        await control(broker, "set_permissions", "-p", "/", "responder", RIGHTS, f"{RIGHTS}|amq\\.default", RIGHTS)
        note(report, "the right to reply lost", noticed_s, await again(responder))


async def test_the_user_is_deleted(servers: Servers, broker: BrokerProcess, namespace: str, report: Report) -> None:
    """Its connections are closed; when it is there again, so is the responder."""
    async with serving(servers, broker, namespace) as (responder, requester):
        await control(broker, "delete_user", "responder")
        await control(broker, "close_all_connections", "tests")
        noticed_s = await noticed(responder, "ACCESS_REFUSED", NOTICED_S)
        assert SECRET not in responder.read("/readyz")
        await asyncio.to_thread(add_user, broker.control, "responder", for_namespaces)
        note(report, "the user deleted", noticed_s, await again(responder))
        await requester.outbox.up()
        await requester.inbox.consuming()
        requester.ask(1)


async def test_the_queue_is_deleted(servers: Servers, broker: BrokerProcess, namespace: str, report: Report) -> None:
    """By somebody else, under a responder that declares nothing: it says so, and consumes when the queue is back."""
    local = Servers(with_user(broker.url), servers.redis_url, "given")
    with responder_process(local, namespace, "tests.models:oracle"):
        pass  # declares
    async with serving(servers, broker, namespace, RESPONDER_DECLARE="false") as (responder, requester):
        async with ForeignClient.connected(broker.url) as admin:
            await admin.channel.queue_delete(f"{namespace}predictions.oracle")
        noticed_s = await noticed(responder, "not consuming: ChannelNotFoundEntity: NOT_FOUND", NOTICED_S)
        with responder_process(local, namespace, "tests.models:oracle"):
            note(report, "the queue deleted", noticed_s, await again(responder))
        requester.ask(1)


async def test_the_network_goes_silent(
    servers: Servers,
    broker: BrokerProcess,
    namespace: str,
    report: Report,
    full: bool,  # noqa: FBT001
) -> None:
    """Sockets open, nothing comes: noticed within three times the heartbeat, a second more each, and 2 s."""
    heartbeat_s = 10 if full else 1
    async with Proxy.running(broker.port) as proxy:
        local = Servers(proxy.url(with_user(broker.url)), servers.redis_url, "given")
        environment = local.environment(namespace) | {"RESPONDER_HEARTBEAT_S": str(heartbeat_s)}
        responder = ResponderProcess("tests.models:oracle", environment)
        try:
            responder.launch()
            await asyncio.to_thread(responder.wait_until_ready)
            async with ForeignClient.connected(broker.url) as client:
                await client.ask(f"{namespace}predictions.oracle", b'{"number": 3}')
                await asyncio.sleep(heartbeat_s)
                for way in (UP, DOWN):
                    proxy.hold(way)
                await client.send(f"{namespace}predictions.oracle", b'{"number": 4}', correlation_id="c2")
                noticed_s = await noticed(responder, "broker: not consuming", 3 * (heartbeat_s + 1) + 2)
                for way in (UP, DOWN):
                    proxy.release(way)
                note(report, f"the network silent, heartbeat {heartbeat_s} s", noticed_s, await again(responder))
                reply = await client.reply(20)
                assert (reply.correlation_id, reply.body) == ("c2", b'{"result":{"square":16}}')
        finally:
            responder.end()


async def control(broker: BrokerProcess, *words: str) -> None:
    """Run `rabbitmqctl`, which takes its time."""
    run: Callable[..., str] = broker.control
    await asyncio.to_thread(run, *words)
