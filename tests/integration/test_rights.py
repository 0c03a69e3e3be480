"""The hardened deployment of docs/guides/security.md, by its own commands: what each user can do, and what not."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aio_pika
import aiormq
import pytest
import pytest_asyncio
from yarl import URL

from deploy.processes import BrokerProcess, RedisProcess
from prediction_client import DeadlineExceeded, PermissionDenied, PredictionClient
from prediction_responder.cache import CacheRefused
from prediction_responder.cache.redis_link import RedisLink
from tests.models import recorded
from tests.real import ROOT, ForeignClient, ResponderProcess, until
from tests.rights import SECRET, add_redis_user, add_user, with_user

pytestmark = [
    pytest.mark.servers,
    pytest.mark.own_servers,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]

VHOST, EXCHANGE, REPLIES = "predictions", "predictions", "replies"
QUEUE, DEAD = "predictions.oracle", "predictions.dead"
REFUSED = (aiormq.ChannelAccessRefused, aio_pika.exceptions.ChannelPreconditionFailed)


@dataclass
class Deployment:
    """A virtual host for predictions, with its users. Its model is the oracle, and `till` a second shop."""

    control: Callable[..., str]
    amqp_url: str
    redis_url: str
    folder: Path

    def url(self, user: str) -> str:
        """To log in as somebody."""
        return with_user(str(URL(self.amqp_url).with_path(f"/{VHOST}")), user)

    def client(self, user: str, **options: object) -> PredictionClient:
        """An application's, as the guide writes it."""
        chosen = {"user_id": user, "exchange": EXCHANGE, "reply_exchange": REPLIES, "reply_prefix": f"replies.{user}."}
        return PredictionClient(self.url(user), timeout_s=10.0, **(chosen | options))  # type: ignore[arg-type]

    def environment(self, user: str) -> dict[str, str]:
        """For our commands."""
        return {
            "AMQP_URL": self.url(user),
            "REDIS_URL": self.redis_url,
            "RESPONDER_REPLY_EXCHANGE": REPLIES,
            "ORACLE_FOLDER": str(self.folder),
        }

    def responder(self, model: str = "tests.models:oracle") -> ResponderProcess:
        """One that has been launched as the guide says."""
        chosen = {
            "RESPONDER_DECLARE": "false",
            "RESPONDER_REQUIRE_USER_ID": "shop|till",
            "RESPONDER_REPLY_TO_PATTERN": r"replies\.{user}\..*|redrive-.*",
            "RESPONDER_TENANT_FROM_USER_ID": "true",
        }
        one = ResponderProcess(model, self.environment("answerer") | chosen)
        one.launch()
        return one

    def command(self, *words: str, user: str = "operator") -> "subprocess.CompletedProcess[str]":
        """One of ours, run to its end."""
        command = [sys.executable, "-m", "prediction_responder", *words]
        environment = os.environ | self.environment(user)
        return subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )


def _of_the_oracle(word: str) -> str:
    return word.replace(".price", ".oracle")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    """Made once, on a broker of its own."""
    folder = tmp_path_factory.mktemp("rights")
    with BrokerProcess.running(folder / "rabbitmq") as broker, RedisProcess.running(folder / "redis") as redis:
        broker.control("add_vhost", VHOST)
        for user in ("operator", "answerer", "shop"):
            add_user(broker.control, user, _of_the_oracle)
        add_user_like(broker.control, "shop", "till")
        redis_url = await add_redis_user(redis.url, str, "answerer")
        one = Deployment(broker.control, broker.url, redis_url, folder)
        done = await asyncio.to_thread(one.command, "declare", "oracle")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            "exchange predictions (direct)",
            "exchange replies (topic)",
            "queue predictions.dead (quorum)",
            "queue predictions.oracle (quorum), bound to predictions with oracle",
        ]
        yield one


def add_user_like(control: Callable[..., str], user: str, other: str) -> None:
    """A second application, with the commands of the first."""
    add_user(lambda *words: control(*(word.replace(user, other) for word in words)), user, _of_the_oracle)


@pytest_asyncio.fixture(loop_scope="module")
async def responder(deployment: Deployment) -> AsyncIterator[ResponderProcess]:
    """A running one, with empty queues and an empty cache of its own."""
    one = deployment.responder()
    try:
        await asyncio.to_thread(one.wait_until_ready)
        yield one
        one.signal(signal.SIGTERM)
        assert await asyncio.to_thread(one.wait, 10) == 0
    finally:
        one.end()


async def test_every_normal_operation_works(deployment: Deployment, responder: ResponderProcess) -> None:
    """Answered, cached, collapsed, answered again after its connections were closed; and drained at the end."""
    async with deployment.client("shop") as shop:
        first = await shop.ask("oracle", {"number": 3})
        assert (first.value, first.cache_status.kind) == ({"square": 9}, "miss")
        assert (await shop.ask("oracle", {"number": 3})).cache_status.hit
        together = [shop.ask("oracle", {"number": 4, "seconds": 0.2}) for _ in range(20)]
        kinds = [one.cache_status.kind for one in await asyncio.gather(*together)]
        assert sorted(set(kinds)) == ["collapsed", "miss"]
        assert recorded(deployment.folder, "start").count(4) == 1

        def ports() -> set[str]:
            listed = deployment.control("--silent", "list_connections", "user", "peer_port")
            return {line for line in listed.splitlines() if line.startswith("answerer")}

        before = await asyncio.to_thread(ports)
        assert before
        await asyncio.to_thread(deployment.control, "close_all_user_connections", "answerer", "tests")
        while not (after := await asyncio.to_thread(ports)) or after & before:  # until it has new ones
            pass
        await until(lambda: responder.probe("/readyz") == 200)
        assert await shop.predict("oracle", {"number": 3}) == {"square": 9}  # its answer may have expired meanwhile
        assert (await shop.ask("oracle", {"number": 3})).cache_status.hit


async def test_dead_letters_arrive_and_the_operator_sees_them(deployment: Deployment) -> None:
    """The broker moves them, so nobody else needs the right to write there."""
    async with channel(deployment.url("shop")) as shop, channel(deployment.url("operator")) as operator:
        exchange = await shop.get_exchange(EXCHANGE, ensure=False)
        await exchange.publish(aio_pika.Message(b"{}", expiration=0.001, user_id="shop", delivery_mode=2), "oracle")
        dead = await operator.get_queue(DEAD)
        letter = await dead.get(timeout=10, fail=False)
        while letter is None:
            letter = await dead.get(timeout=10, fail=False)
        await letter.nack(requeue=True)
        listed = await asyncio.to_thread(deployment.command, "redrive", "--list")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert listed.stdout.splitlines()[-1] == "1 expired"
        await dead.purge()


async def test_the_operator_redrives_in_the_name_of_others(deployment: Deployment) -> None:
    """An innocent letter is answered to the application that had asked, through the exchange for replies."""
    async with channel(deployment.url("shop")) as shop, channel(deployment.url("operator")) as operator:
        replies = await shop.declare_queue("replies.shop.late", exclusive=True)
        await (await shop.get_underlay_channel()).queue_bind(replies.name, REPLIES, replies.name)
        exchange = await shop.get_exchange(EXCHANGE, ensure=False)
        request = aio_pika.Message(
            b'{"number": 12}', user_id="shop", reply_to=replies.name, correlation_id="late", delivery_mode=2
        )
        await exchange.publish(request, "oracle")
        waiting = await (await operator.get_queue(QUEUE)).get(timeout=10)
        assert waiting is not None
        await waiting.reject(requeue=False)
        async with ForeignClient.connected(deployment.url("operator")) as admin:
            assert await admin.depth(DEAD, 1) == 1
        one = deployment.responder()
        try:
            await asyncio.to_thread(one.wait_until_ready)
            kept = await asyncio.to_thread(deployment.command, "redrive", "--timeout", "5")
            assert (kept.returncode, "1 kept: it carries a user" in kept.stdout) == (1, True)
            done = await asyncio.to_thread(deployment.command, "redrive", "--impersonate", "--timeout", "5")
            assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 answered")
        finally:
            one.end()
        reply = await replies.get(timeout=10)
        assert reply is not None
        assert (reply.correlation_id, reply.body) == ("late", b'{"result":{"square":144}}')


async def test_an_application_has_cached_answers_of_its_own(
    deployment: Deployment, responder: ResponderProcess
) -> None:
    """The same inputs, and the other one's name in the header: no hit comes from the other's answers."""
    assert responder.process is not None
    numbers, foreign = range(1000, 1200), 0
    async with deployment.client("shop") as shop, deployment.client("till") as till:
        await asyncio.gather(*(shop.ask("oracle", {"number": number}) for number in numbers))
        for tenant in (None, "shop"):
            replies = await asyncio.gather(*(till.ask("oracle", {"number": n}, tenant=tenant) for n in numbers))
            foreign += sum(reply.cache_status.hit for reply in replies) if tenant is None else 0
        again = await asyncio.gather(*(shop.ask("oracle", {"number": number}) for number in numbers))
    starts = recorded(deployment.folder, "start")
    assert foreign == 0
    assert [starts.count(number) for number in numbers] == [2] * len(numbers)
    assert all(reply.cache_status.hit for reply in again)


async def test_who_asks_is_known(deployment: Deployment, responder: ResponderProcess) -> None:
    """A user who is not the connection's is refused by the broker, one who is not on the list by us."""
    assert responder.process is not None
    starts = len(recorded(deployment.folder, "start"))
    async with deployment.client("shop", user_id=None) as nobody:
        with pytest.raises(DeadlineExceeded):  # whose reply queue it is, nobody knows
            await nobody.predict("oracle", {"number": 5}, timeout_s=1)
    add_user_like(deployment.control, "shop", "thief")
    async with deployment.client("thief") as thief:
        with pytest.raises(PermissionDenied, match="'thief' may not ask"):
            await thief.predict("oracle", {"number": 5})
    async with channel(deployment.url("shop")) as spoofing:
        exchange = await spoofing.get_exchange(EXCHANGE, ensure=False)
        with pytest.raises(aiormq.ChannelPreconditionFailed, match="user_id"):
            await exchange.publish(aio_pika.Message(b'{"number": 5}', user_id="till"), "oracle")
    assert len(recorded(deployment.folder, "start")) == starts


async def test_no_reply_address_makes_it_write_anywhere_else(
    deployment: Deployment, responder: ResponderProcess
) -> None:
    """Queues of others, our own, exchanges, wildcards, direct reply-to: nothing arrives, and it goes on."""
    addresses = ["victim", QUEUE, DEAD, REPLIES, EXCHANGE, "amq.direct", "#", "*", "replies.#", "x" * 255]
    addresses += ["replies.till.main", "replies.shopping.1", "replies.shop"]
    direct = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA0MDQ.abc=="
    async with channel(deployment.url("operator")) as operator, deployment.client("shop") as shop:
        victim = await operator.declare_queue("victim", durable=True)
        for name in ("victim", "replies.till.main", "replies.shopping.1", "replies.shop"):
            await (await operator.get_underlay_channel()).queue_bind("victim", REPLIES, name)
        async with channel(deployment.url("shop")) as asking:
            exchange = await asking.get_exchange(EXCHANGE, ensure=False)
            for address in (*addresses, direct):
                message = aio_pika.Message(b'{"number": 6}', reply_to=address, user_id="shop", correlation_id="forged")
                await exchange.publish(message, "oracle")
        assert await shop.predict("oracle", {"number": 7}) == {"square": 49}
        assert f'kind="reply_to_refused"}} {len(addresses) + 1}.0' in responder.metrics()
        for name in ("victim", QUEUE, DEAD):
            assert (await operator.declare_queue(name, passive=True)).declaration_result.message_count == 0
        await victim.delete()


Attempt = Callable[[aio_pika.abc.AbstractChannel], Awaitable[object]]


def consume(queue: str) -> Attempt:
    """Read a queue."""

    async def attempt(to: aio_pika.abc.AbstractChannel) -> None:
        await (await to.get_underlay_channel()).basic_consume(queue, _ignore)

    return attempt


def publish(exchange: str, key: str) -> Attempt:
    """Write to an exchange; the broker's confirm says whether it would."""

    async def attempt(to: aio_pika.abc.AbstractChannel) -> None:
        target = await to.get_exchange(exchange, ensure=False) if exchange else to.default_exchange
        await target.publish(aio_pika.Message(b"{}"), key)

    return attempt


def declare(queue: str) -> Attempt:
    """Make a queue."""
    return lambda to: to.declare_queue(queue, durable=True)


def bind(queue: str, exchange: str, key: str) -> Attempt:
    """Have an exchange feed a queue, which is made if it may be."""

    async def attempt(to: aio_pika.abc.AbstractChannel) -> None:
        if queue.startswith("replies."):
            await to.declare_queue(queue, exclusive=True)
        underlay = await to.get_underlay_channel()
        await underlay.queue_bind(queue, exchange, key)

    return attempt


def call(method: str, *arguments: str) -> Attempt:
    """Any other method of the protocol."""

    async def attempt(to: aio_pika.abc.AbstractChannel) -> None:
        await getattr(await to.get_underlay_channel(), method)(*arguments)

    return attempt


async def _ignore(_message: object) -> None:
    """Nothing comes."""


FORBIDDEN: dict[str, dict[str, Attempt]] = {
    "answerer": {
        "publish to the default exchange": publish("", "victim"),
        "publish a request": publish(EXCHANGE, "oracle"),
        "publish to another exchange": publish("amq.direct", "x"),
        "read dead letters": consume(DEAD),
        "read replies": consume("replies.of.somebody"),
        "declare a queue": declare("mine"),
        "declare a request queue": declare("predictions.mine"),
        "delete its queue": call("queue_delete", QUEUE),
        "bind its queue": bind(QUEUE, EXCHANGE, "other"),
        "declare an exchange": call("exchange_declare", "mine"),
        "delete the exchange": call("exchange_delete", REPLIES),
    },
    "shop": {
        "forge a reply": publish(REPLIES, "replies.till.1"),
        "publish to the default exchange": publish("", QUEUE),
        "publish to another exchange": publish("amq.direct", "x"),
        "read requests": consume(QUEUE),
        "read dead letters": consume(DEAD),
        "declare another's reply queue": declare("replies.till.2"),
        "declare a queue": declare("mine"),
        "hear another's replies": bind("replies.shop.1", REPLIES, "replies.till.1"),
        "hear all replies": bind("replies.shop.2", REPLIES, "#"),
        "hear all replies, by words": bind("replies.shop.3", REPLIES, "replies.*.*"),
        "hear its own in the name of all": bind("replies.shop.4", REPLIES, "replies.shop.#"),
        "steal requests": bind("replies.shop.5", EXCHANGE, "oracle"),
        "delete the request queue": call("queue_delete", QUEUE),
        "empty the request queue": call("queue_purge", QUEUE),
        "delete the exchange": call("exchange_delete", EXCHANGE),
    },
}


@pytest.mark.parametrize(("user", "what"), [(user, what) for user, ways in FORBIDDEN.items() for what in ways])
async def test_everything_else_is_refused(deployment: Deployment, user: str, what: str) -> None:
    """By the broker, with 403."""
    async with channel(deployment.url(user)) as to:
        with pytest.raises(aiormq.ChannelAccessRefused, match="refused for user"):
            await FORBIDDEN[user][what](to)


@pytest.mark.parametrize("user", ["answerer", "shop"])
async def test_no_other_virtual_host_lets_them_in(deployment: Deployment, user: str) -> None:
    """Not even the default one."""
    with pytest.raises((aiormq.AMQPError, OSError), match=r"refused|Connection\.Close"):
        await aio_pika.connect(str(URL(deployment.url(user)).with_path("/")))


REDIS_REFUSED: list[tuple[str | int, ...]] = [
    ("FLUSHALL",),
    ("KEYS", "*"),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("CLIENT", "LIST"),
    ("MONITOR",),
    ("DEBUG", "SLEEP", "0"),
    ("SHUTDOWN",),
    ("SCRIPT", "FLUSH"),
    ("GET", "session:1"),
    ("SET", "session:1", "x"),
    ("EVAL", "return redis.call('get', 'session:1')", 0),
    ("EVAL", "return redis.call('flushall')", 0),
    ("PUBLISH", "news", "x"),
    ("SUBSCRIBE", "news"),
]


@pytest.mark.parametrize("command", REDIS_REFUSED, ids=lambda command: " ".join(map(str, command)))
async def test_redis_refuses_its_user_everything_else(deployment: Deployment, command: tuple[str | int, ...]) -> None:
    """Other keys, other channels, other commands, scripts included."""
    async with RedisLink(deployment.redis_url, timeout_s=5.0) as link:
        with pytest.raises(CacheRefused, match=r"NOPERM|can't"):
            await link.ask(*command)


async def test_declare_says_what_stands_in_its_way(deployment: Deployment, tmp_path: Path) -> None:
    """One line and exit status 1; 2 for a name that no model has."""
    refused = await asyncio.to_thread(deployment.command, "declare", "oracle", user="answerer")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("RabbitMQ: ChannelAccessRefused: ACCESS_REFUSED")
    assert len(refused.stderr.splitlines()) == 1
    assert SECRET not in refused.stderr
    wrong = await asyncio.to_thread(deployment.command, "declare", "dead")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "'dead' must be" in wrong.stderr
    as_json = await asyncio.to_thread(deployment.command, "declare", "oracle", "--json")
    assert len(json.loads(as_json.stdout)["declared"]) == 4


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A plain channel of somebody."""
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()
