"""Every seam of aio-pika, aiormq and redis-py that the house stands on: a version that moves one fails here."""

import inspect
import ssl
from typing import Any

import aio_pika
import aiormq
import hiredis
import pytest
from aiormq.abc import AbstractChannel, AbstractConnection
from redis.asyncio import ConnectionPool

SEAMS: dict[str, tuple[Any, list[str]]] = {
    "the socket: aiormq takes a transport factory": (aiormq.connect, ["url", "transport_factory"]),
    "the socket: a factory creates a reader and a writer": (aiormq.TransportFactory.create, ["url"]),
    "the socket: TLS settings come from a provider": (aiormq.SSLContextProvider.get_context, ["self"]),
    "a connection: a class that can be extended": (aio_pika.Connection.__init__, ["url"]),
    "a connection: it connects": (aio_pika.Connection.connect, ["timeout"]),
    "a connection: it makes channels": (aio_pika.Connection.channel, ["publisher_confirms", "on_return_raises"]),
    "a connection: it closes": (aio_pika.Connection.close, []),
    "a channel: it is opened": (aio_pika.Channel.initialize, []),
    "a channel: aiormq's is under it": (aio_pika.Channel.get_underlay_channel, []),
    "declaring: queues": (AbstractChannel.queue_declare, ["queue", "durable", "exclusive", "arguments", "passive"]),
    "declaring: exchanges": (AbstractChannel.exchange_declare, ["exchange", "exchange_type", "durable"]),
    "declaring: bindings": (AbstractChannel.queue_bind, ["queue", "exchange", "routing_key"]),
    "consuming: prefetch": (AbstractChannel.basic_qos, ["prefetch_count"]),
    "consuming: begin": (AbstractChannel.basic_consume, ["queue", "consumer_callback", "no_ack", "consumer_tag"]),
    "consuming: end": (AbstractChannel.basic_cancel, ["consumer_tag", "timeout"]),
    "Redis: a URL becomes connections": (ConnectionPool.from_url, ["url"]),
    "Redis: a connection of its own": (ConnectionPool.make_connection, []),
}


@pytest.mark.parametrize("seam", SEAMS)
def test_a_seam_is_where_it_was(seam: str) -> None:
    """The function is there and takes what we give it."""
    function, wanted = SEAMS[seam]
    parameters = inspect.signature(function).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    missing = [name for name in wanted if name not in parameters and not open_ended]
    assert not missing, f"{seam}: {function.__qualname__} no longer takes {missing}"


def test_the_values_that_are_read_are_where_they_were() -> None:
    """A channel knows its number, a connection the largest frame that was agreed on; hiredis packs a command."""
    assert "number" in AbstractChannel.__annotations__ or hasattr(AbstractChannel, "number")
    assert "connection_tune" in AbstractConnection.__annotations__ or hasattr(AbstractConnection, "connection_tune")
    assert "kwargs" in inspect.getsource(aio_pika.Connection.__init__)
    plain, secure, local = (
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call]
        for url in ("redis://ann:word@host:1/2", "rediss://host:1", "unix:///a/path?db=3")
    )
    assert (plain.host, plain.port, plain.db, plain.username, plain.password) == ("host", 1, 2, "ann", "word")
    assert isinstance(secure.ssl_context.get(), ssl.SSLContext)
    assert (local.path, local.db) == ("/a/path", 3)
    assert hiredis.pack_command(("GET", b"a")) == b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"  # type: ignore[arg-type]
