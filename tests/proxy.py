"""A TCP proxy that can cut, hold and hurt what runs through it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

# Of a connection (0 for the first that was made) and a direction: how many bytes pass before both ends are cut.
Limit = Callable[[int, str], int | None]
UP, DOWN = "up", "down"


class Proxy:
    """Between clients and a server, on the loopback; or the first of several servers that lets it connect."""

    def __init__(self, port: int, limit: Limit = lambda _number, _way: None, others: Sequence[int] = ()) -> None:
        self.targets = [port, *others]
        self._limit = limit
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._sockets: set[asyncio.StreamWriter] = set()
        self._open = {UP: asyncio.Event(), DOWN: asyncio.Event()}
        self.port = 0
        self.connections = 0
        self.cuts = 0
        self.passed: dict[tuple[int, str], int] = {}
        self.turns: Counter[int] = Counter()  # of a connection: how often the server's turn came
        self.dropped = 0
        self._last_way: dict[int, str] = {}
        self._drop: bytes | None = None
        for gate in self._open.values():
            gate.set()

    @classmethod
    @asynccontextmanager
    async def running(
        cls, url_or_port: str | int, limit: Limit = lambda _n, _w: None, others: Sequence[int] = ()
    ) -> AsyncIterator["Proxy"]:
        """A proxy to a port, or to the port of a URL like `amqp://guest:guest@127.0.0.1:5672/`."""
        port = url_or_port if isinstance(url_or_port, int) else int(url_or_port.rpartition(":")[2].partition("/")[0])
        one = cls(port, limit, others)
        one._server = await asyncio.start_server(one._serve, "127.0.0.1", 0)
        one.port = one._server.sockets[0].getsockname()[1]
        try:
            yield one
        finally:
            one._server.close()
            one.cut()
            for pipe in list(one._pipes):
                pipe.cancel()
            await asyncio.gather(*one._pipes, return_exceptions=True)

    def url(self, url: str) -> str:
        """The server's URL, through here."""
        head, _, tail = url.rpartition(":")
        return f"{head.rpartition('@')[0]}@127.0.0.1:{self.port}/{tail.partition('/')[2]}"

    def plain_url(self, url: str) -> str:
        """The same of a URL without a user, like `redis://127.0.0.1:6379/0`."""
        scheme, _, rest = url.partition("://")
        return f"{scheme}://127.0.0.1:{self.port}/{rest.partition('/')[2]}"

    def drop_reply_to(self, words: bytes) -> None:
        """Swallow what the server says after the next thing that a client sends with these words in it."""
        self._drop = words

    def hold(self, way: str) -> None:
        """Let nothing pass in a direction; the sockets stay open."""
        self._open[way].clear()

    def release(self, way: str) -> None:
        """Let everything pass that was held."""
        self._open[way].set()

    def cut(self) -> None:
        """Cut every connection."""
        for one in list(self._sockets):
            one.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        for port in self.targets:
            with contextlib.suppress(OSError):
                other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
                break
        else:
            writer.transport.abort()
            return
        ends = {writer, other_writer}
        self._sockets |= ends
        pipes = {
            asyncio.ensure_future(self._pipe(number, UP, reader, other_writer)),
            asyncio.ensure_future(self._pipe(number, DOWN, other_reader, writer)),
        }
        self._pipes |= pipes
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
            for end in ends:
                end.transport.abort()
            self._sockets -= ends
            self._pipes -= pipes

    def _is_dropped(self, way: str, data: bytes) -> bool:
        if way == DOWN and self._drop == b"":
            self._drop, self.dropped = None, self.dropped + 1
            return True
        if way == UP and self._drop and self._drop in data:
            self._drop = b""
        return False

    async def _pipe(self, number: int, way: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        limit, passed = self._limit(number, way), 0
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._open[way].wait()
                if self._is_dropped(way, data):
                    continue
                self.turns[number] += way == UP != self._last_way.get(number)
                self._last_way[number] = way
                part = data if limit is None else data[: limit - passed]
                passed += len(part)
                self.passed[number, way] = passed
                sink.write(part)
                await sink.drain()
                if passed == limit:
                    self.cuts += 1
                    return
