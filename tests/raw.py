"""A requester that writes AMQP frames by hand, so that it can write what no library would."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pamqp.frame
from pamqp import commands
from yarl import URL


class Refused(Exception):
    """The broker would not have it, and said so by closing."""


class RawWriter:
    """One connection with one channel, over plain TCP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator["RawWriter"]:
        """One that may publish."""
        target = URL(url)
        reader, writer = await asyncio.open_connection(target.host, target.port)
        one = cls(reader, writer)
        try:
            writer.write(b"AMQP\x00\x00\x09\x01")
            await one._expect(commands.Connection.Start)
            login = f"\x00{target.user}\x00{target.password}"
            one._send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
            await one._expect(commands.Connection.Tune)
            one._send(commands.Connection.TuneOk(2047, 131_072, 0), 0)
            one._send(commands.Connection.Open(target.path or "/"), 0)
            await one._expect(commands.Connection.OpenOk)
            one._send(commands.Channel.Open(), 1)
            await one._expect(commands.Channel.OpenOk)
            yield one
        finally:
            writer.transport.abort()

    async def publish(self, queue: str, flags: int, values: bytes, body: bytes, exchange: str = "") -> None:
        """A message whose properties are these bytes; returns when the broker has it.

        Raises:
            Refused: it closed the channel or the connection instead.
        """
        self._send(commands.Confirm.Select(), 1)
        await self._expect(commands.Confirm.SelectOk)
        self._send(commands.Basic.Publish(0, exchange, queue), 1)
        head = struct.pack(">HHQH", 60, 0, len(body), flags) + values
        self._writer.write(struct.pack(">BHI", 2, 1, len(head)) + head + b"\xce")
        self._writer.write(struct.pack(">BHI", 3, 1, len(body)) + body + b"\xce")
        await self._expect(commands.Basic.Ack)

    def _send(self, method: pamqp.frame.FrameTypes, channel: int) -> None:
        self._writer.write(pamqp.frame.marshal(method, channel))

    async def _expect(self, wanted: type) -> None:
        while True:
            try:
                async with asyncio.timeout(10):
                    head = await self._reader.readexactly(7)
                    kind, _, size = struct.unpack(">BHI", head)
                    data = await self._reader.readexactly(size + 1)
            except (asyncio.IncompleteReadError, OSError) as error:
                raise Refused(str(error)) from error
            if kind != 1:
                continue
            _, _, method = pamqp.frame.unmarshal(head + data)
            if isinstance(method, wanted):
                return
            if isinstance(method, commands.Channel.Close | commands.Connection.Close):
                raise Refused(method.reply_text)


def short(text: bytes) -> bytes:
    """A short string."""
    return bytes((len(text),)) + text


def table(*fields: bytes) -> bytes:
    """A field table of fields that are already encoded."""
    return struct.pack(">I", sum(map(len, fields))) + b"".join(fields)


def text_field(name: bytes, value: bytes) -> bytes:
    """A field with a long string."""
    return short(name) + b"S" + struct.pack(">I", len(value)) + value
