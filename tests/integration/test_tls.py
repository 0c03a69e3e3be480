"""TLS and mutual TLS to both servers: with the right papers everything works, without them nothing is sent."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from yarl import URL

from amqp_lane import Inbox, QueueSpec
from deploy.processes import BrokerProcess, RedisProcess
from prediction_client import NoBroker, PredictionClient
from prediction_responder.cache.redis_link import RedisLink
from tests.real import ResponderProcess, free_port, until
from tests.tls import Authority

pytestmark = [pytest.mark.servers, pytest.mark.own_servers]

REDIS = {"cafile": "ssl_ca_certs", "certfile": "ssl_certfile", "keyfile": "ssl_keyfile"}


@dataclass
class Secured:
    """A broker and a Redis that speak TLS only, and only to those who show a certificate of the authority."""

    authority: Authority
    stranger: Authority
    amqp_port: int
    redis_port: int

    def papers(self, who: str = "client", of: Authority | None = None) -> dict[str, str]:
        """What a client needs to know."""
        authority = of or self.authority
        return {
            "cafile": self.authority.file("ca.pem"),
            "certfile": authority.file(f"{who}.pem"),
            "keyfile": authority.file(f"{who}.key"),
        }

    def amqp_url(self, papers: dict[str, str], host: str = "localhost") -> str:
        """The broker's."""
        return str(URL(f"amqps://guest:guest@{host}:{self.amqp_port}/").with_query(papers))

    def redis_url(self, papers: dict[str, str], host: str = "localhost") -> str:
        """Redis's, whose words for the same are others."""
        query = {REDIS[name]: value for name, value in papers.items()}
        return str(URL(f"rediss://{host}:{self.redis_port}/0").with_query(query))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Running ones."""
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority(folder / "keys"), Authority(folder / "other-keys")
    for who in ("server", "client"):
        authority.sign(who)
        stranger.sign(who)
    redis = RedisProcess(folder / "redis")
    redis.secure(authority.file("ca.pem"), authority.file("server.pem"), authority.file("server.key"))
    amqp_port = free_port()
    with BrokerProcess.prepared(folder / "rabbitmq") as broker:
        broker.configure(
            *authority.listener(amqp_port),
            "ssl_options.verify = verify_peer",
            "ssl_options.fail_if_no_peer_cert = true",
        )
        broker.start()
        try:
            redis.start()
            yield Secured(authority, stranger, amqp_port, redis.tls_port)
        finally:
            redis.kill()


async def test_a_responder_and_a_client_with_the_right_papers(secured: Secured, namespace: str, tmp_path: Path) -> None:
    """Answers over TLS to the broker, cached over TLS in Redis, leases and pushes included; nothing is degraded."""
    amqp_url = secured.amqp_url(secured.papers())
    environment = {
        "AMQP_URL": amqp_url,
        "REDIS_URL": secured.redis_url(secured.papers()),
        "RESPONDER_NAMESPACE": namespace,
        "ORACLE_FOLDER": str(tmp_path),
    }
    responder = ResponderProcess("tests.models:oracle", environment)
    try:
        responder.launch()
        await asyncio.to_thread(responder.wait_until_ready)
        async with PredictionClient(amqp_url, namespace=namespace) as client:
            replies = [await client.ask("oracle", {"number": 3}) for _ in range(2)]
        assert [reply.cache_status.kind for reply in replies] == ["miss", "hit"]
        assert responder.read("/readyz") == '{"status": "ready", "missing": [], "degraded": []}'
    finally:
        responder.end()


def wrong(secured: Secured, what: str) -> tuple[dict[str, str], str]:
    """Papers that will not do, and the host to show them to."""
    papers = secured.papers()
    match what:
        case "no certificate":
            return {"cafile": papers["cafile"]}, "localhost"
        case "a certificate of another authority":
            return secured.papers(of=secured.stranger), "localhost"
        case "another authority is trusted":
            return papers | {"cafile": secured.stranger.file("ca.pem")}, "localhost"
        case "no authority is trusted but the system's":
            return {name: value for name, value in papers.items() if name != "cafile"}, "localhost"
        case _:
            return papers, "127.0.0.1"  # is not in the server's certificate


WRONG = [
    "no certificate",
    "a certificate of another authority",
    "another authority is trusted",
    "no authority is trusted but the system's",
    "another host",
]


@pytest.mark.parametrize("what", WRONG)
async def test_the_broker_and_wrong_papers(secured: Secured, namespace: str, what: str) -> None:
    """No connection, and the reason is said."""
    papers, host = wrong(secured, what)
    async with Inbox(secured.amqp_url(papers, host), [QueueSpec(namespace)], name="wrong", prefetch=1) as inbox:
        await until(lambda: inbox.last_error)
        assert not inbox.is_consuming
        if "trusted" in what or what == "another host":
            assert "certificate verify failed" in str(inbox.last_error)
    with pytest.raises(NoBroker):
        await PredictionClient(secured.amqp_url(papers, host), connect_timeout_s=0.5).__aenter__()


@pytest.mark.parametrize("what", WRONG)
async def test_redis_and_wrong_papers(secured: Secured, what: str) -> None:
    """The same."""
    papers, host = wrong(secured, what)
    async with RedisLink(secured.redis_url(papers, host), timeout_s=2.0) as link:
        assert not link.is_up
        if "trusted" in what or what == "another host":
            assert "certificate verify failed" in str(link.problem)


@asynccontextmanager
async def server(context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """One that nobody should talk to; its port. Whoever does makes the test fail."""
    said: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            said.append(await reader.read(100))
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield int(listening.sockets[0].getsockname()[1])
    assert not [words for words in said if b"AMQP" in words or b"PING" in words or b"AUTH" in words]


@pytest.mark.parametrize("what", ["expired", "TLS 1.1", "no TLS"])
async def test_a_server_that_must_not_be_trusted(secured: Secured, what: str) -> None:
    """Its certificate has expired, its protocol is too old, or it speaks none: no word of ours is sent."""
    authority, context = secured.authority, None
    if what != "no TLS":
        authority.sign(what.replace(" ", "-"), days=0 if what == "expired" else 2)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        name = what.replace(" ", "-")
        context.load_cert_chain(authority.file(f"{name}.pem"), authority.file(f"{name}.key"))
        if what == "TLS 1.1":
            context.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings(action="ignore"):  # it is as deprecated as can be
                context.minimum_version = ssl.TLSVersion.TLSv1_1
                context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with server(context) as port:
        secured = Secured(authority, secured.stranger, port, port)
        papers = secured.papers()
        async with Inbox(secured.amqp_url(papers), [QueueSpec("q")], name="wrong", prefetch=1) as inbox:
            await until(lambda: inbox.last_error)
            assert not inbox.is_consuming
        async with RedisLink(secured.redis_url(papers), timeout_s=2.0) as link:
            assert not link.is_up
