"""The stream protocol between the socket and aiormq's reader."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol, cast

from amqp_lane import frames
from amqp_lane.frames import Event, FrameError, Splitter

log = logging.getLogger("amqp_lane")

PASS_HEARTBEAT_EVERY_S = 1.0
# Passed on to aiormq, and seen here because they end or stop what the wire carries.
WATCHED = (
    frames.CONNECTION_CLOSE,
    frames.CHANNEL_CLOSE,
    frames.BASIC_CANCEL,
    frames.CONNECTION_BLOCKED,
    frames.CONNECTION_UNBLOCKED,
)


class BrokerRefusal(ConnectionError):
    """The broker closed the channel or the connection because of something that we sent."""


class BrokerFault(ConnectionError):
    """The broker closed the connection because it failed itself (541, AMQP 0-9-1 section 1.2, internal-error)."""


@dataclass(frozen=True, slots=True)
class Moderation:
    """How long to pause after a read: a millisecond for so many events, within limits.

    uvloop's timers count in milliseconds.
    """

    events_per_ms: int
    at_most_ms: int
    at_least_ms: int = 0


class Owner(Protocol):
    """Whom a wire tells. It names itself, because one may outlive the epoch that it belonged to."""

    def received(self, wire: "Wire", events: list[Event]) -> None:
        """What one read of the socket brought."""

    def writable(self, wire: "Wire") -> None:
        """The socket takes more."""

    def end(self, error: Exception, wire: "Wire | None" = None) -> None:
        """The epoch is over."""


class Wire(asyncio.StreamReaderProtocol):
    """Keeps the frames that carry messages, passes the others on, and writes what the lane has to say.

    Under load it does what network cards do against a flood of interrupts: a read that brought many events is followed
    by a short pause, in which the next batch gathers in the kernel. The rule says whether a quiet one is paused too.

    Args:
        reader: aiormq's.
        splitter: cuts what the socket brings.
        link: whom to tell.
        moderation: how long to pause.
    """

    def __init__(self, reader: asyncio.StreamReader, splitter: Splitter, link: Owner, moderation: Moderation) -> None:
        super().__init__(reader)
        self._loop = asyncio.get_running_loop()
        self._moderation = moderation
        self._splitter = splitter
        self._link = link
        self._passed_at = 0.0
        self._has_kept = False
        self._socket: asyncio.Transport | None = None
        self._is_full = False
        self._is_blocked = False

    @property
    def can_write(self) -> bool:
        return self._socket is not None and not self._is_full and not self._is_blocked

    def write(self, data: bytes) -> None:
        if self._socket is not None and not self._socket.is_closing():
            self._socket.write(data)

    def abort(self) -> None:
        """Drop the socket and whatever is still to be written."""
        if self._socket is not None:
            self._socket.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = cast("asyncio.Transport", transport)  # uvloop's is one without being a subclass

    def data_received(self, data: bytes) -> None:
        try:
            self._take(data)
        except FrameError as error:
            log.error("%s; dropping the connection", error)
            self.abort()

    def _take(self, data: bytes) -> None:
        events, passed = self._splitter.feed(data)
        now = self._loop.time()
        self._has_kept = self._has_kept or bool(events)
        if not passed and self._has_kept and now - self._passed_at > PASS_HEARTBEAT_EVERY_S:
            # aiormq takes the time of its last frame for the time of the broker's last sign of life. Not during the
            # handshake, of which nothing is kept: a heartbeat in the middle of it is an error.
            passed = frames.HEARTBEAT_FRAME
        if passed:
            self._passed_at = now
            super().data_received(passed)
        if events:
            if passed:  # what is watched is passed on as well
                events = self._watch(events)
            self._link.received(self, events)
            self._pause(len(events))

    def _pause(self, events: int) -> None:
        rule = self._moderation
        pause_ms = max(rule.at_least_ms, min(events // rule.events_per_ms, rule.at_most_ms))
        if pause_ms and self._socket is not None:
            self._socket.pause_reading()
            self._loop.call_later(pause_ms / 1000, self._read_on)

    def _read_on(self) -> None:
        if self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._is_full = True

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_full = False
        self._link.writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket = None
        self._link.end(exc or ConnectionError("the broker closed the connection"), self)
        super().connection_lost(exc)

    def _watch(self, events: list[Event]) -> list[Event]:
        """Take out what concerns the link itself."""
        kept = []
        for event in events:
            match event[0]:
                case frames.CONNECTION_CLOSE | frames.CHANNEL_CLOSE:
                    kind = _KINDS.get(int.from_bytes(event[1][:2]), BrokerRefusal)
                    self._link.end(kind(_close_reason(event[1])), self)
                case frames.BASIC_CANCEL:
                    self._link.end(ConnectionError("the broker cancelled a consumer"), self)
                case frames.CONNECTION_BLOCKED:
                    self._is_blocked = True
                case frames.CONNECTION_UNBLOCKED:
                    self._is_blocked = False
                    self._link.writable(self)
                case _:
                    kept.append(event)
        return kept


# AMQP 0-9-1 section 1.2: connection-forced is an operator, or the broker's end.
_KINDS: dict[int, type[ConnectionError]] = {320: ConnectionError, 541: BrokerFault}


def _close_reason(arguments: bytes) -> str:
    code = int.from_bytes(arguments[:2])
    return f"{code} {arguments[3 : 3 + arguments[2]].decode('utf-8', 'replace')}"
