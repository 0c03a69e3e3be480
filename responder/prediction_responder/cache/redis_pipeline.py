"""One connection to Redis. Commands of one event loop turn share a write; replies keep their order."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import hiredis

from prediction_responder.cache.port import CacheRefused, CacheUnavailable
from prediction_responder.clock import Clock

Command = tuple[str | bytes | int, ...]

_pack: Callable[[Command], bytes] = hiredis.pack_command  # type: ignore[assignment] # its stub knows one argument
_NO_REPLY_YET = object()
_SKIP_REPLY = _pack(("CLIENT", "REPLY", "SKIP"))


class Subscription(NamedTuple):
    """Channels to listen to.

    Args:
        channels: what to call with each message of a channel, by the channel's name.
        on_begun: called whenever the subscription begins: messages published before are lost.
    """

    channels: Mapping[bytes, Callable[[bytes], None]]
    on_begun: Callable[[], None]


class Pipelined(asyncio.Protocol):
    """One connection. It ends when a reply is overdue, or when the bytes are no Redis protocol."""

    def __init__(self, timeout_s: float, subscription: Subscription | None, clock: Clock) -> None:
        self._subscription = subscription
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._now_s = clock.now_s
        self._reader = hiredis.Reader(notEnoughData=_NO_REPLY_YET)
        self._transport: asyncio.Transport | None = None
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._queued: list[bytes] = []
        self._watch: asyncio.TimerHandle | None = None
        self._heard_at = 0.0
        self.can_skip = False
        self.ended: asyncio.Future[str] = self._loop.create_future()

    def __repr__(self) -> str:
        return f"up, {len(self._asked)} asked"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.end(f"{type(exc).__name__}: {exc}" if exc else "Redis closed the connection")

    def ask(self, *command: str | bytes | int) -> "asyncio.Future[Any]":
        """Send a command; see `RedisLink.ask`."""
        packed = _pack(command)  # first: a command that cannot be packed must not wait for a reply
        reply: asyncio.Future[Any] = self._loop.create_future()
        is_quiet = not self._asked
        self._asked.append((reply, self._now_s() + self._timeout_s))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._check)
        if is_quiet:  # no reply is pending, so send it without delay
            self._write(packed)
        else:
            if not self._queued:
                self._loop.call_soon(self._flush)
            self._queued.append(packed)
        return reply

    def tell(self, command: Command) -> None:
        queued, self._queued = self._queued, []
        if self.can_skip:
            queued.append(_SKIP_REPLY)
        else:
            self._asked.append((self._loop.create_future(), self._now_s() + self._timeout_s))
        self._write(b"".join([*queued, _pack(command)]))

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._now_s()
        try:
            self._reader.feed(data)
            while (value := self._reader.gets(False)) is not _NO_REPLY_YET:  # noqa: FBT003 - "do not decode"
                if self._subscription is not None and type(value) is list and value[0] == b"message":
                    self._subscription.channels[value[1]](value[2])
                    continue
                reply, _ = self._asked.popleft()
                if reply.done():
                    continue
                if isinstance(value, hiredis.HiredisError):  # concerns one command; the connection still works
                    reply.set_exception(CacheRefused(str(value)))
                    reply.exception()  # mark it as retrieved, as its caller may have gone
                else:
                    reply.set_result(value)
        except (hiredis.ProtocolError, IndexError) as error:
            self.end(f"this is not Redis: {error}")

    def end(self, problem: str) -> None:
        """End the connection now: every pending command fails."""
        asked, self._asked, self._queued = self._asked, deque(), []
        for reply, _ in asked:
            if not reply.done():
                reply.set_exception(CacheUnavailable(problem))
                reply.exception()  # mark it as retrieved, as its caller may have gone
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self.ended.done():
            self.ended.set_result(problem)
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        queued, self._queued = self._queued, []
        if queued:
            self._write(b"".join(queued))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _check(self) -> None:
        """End the connection if the oldest pending command is overdue and nothing has arrived for the timeout.

        One timer serves all commands; it does not run while none is pending.
        """
        self._watch = None
        if not self._asked:
            return
        due = max(self._asked[0][1], self._heard_at + self._timeout_s)
        if due > self._now_s():
            self._watch = self._loop.call_at(due, self._check)
        else:
            self.end(f"no reply within {self._timeout_s:g} s")
