"""The stream protocol between the socket and aiormq's reader."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol, cast

from amqp_lane import frames
from amqp_lane.frames import Event, FrameError, Splitter

log = logging.getLogger("amqp_lane")

PASS_HEARTBEAT_EVERY_S = 1.0
# Passed on to aiormq, and watched here because they end the epoch, or stop or resume publishing.
WATCHED = (
    frames.CONNECTION_CLOSE,
    frames.CHANNEL_CLOSE,
    frames.BASIC_CANCEL,
    frames.CONNECTION_BLOCKED,
    frames.CONNECTION_UNBLOCKED,
)


class BrokerRefusal(ConnectionError):
    """The broker closed the channel or the connection because of what we sent."""


class BrokerFault(ConnectionError):
    """The broker closed the connection because of its own failure (541, AMQP 0-9-1 section 1.2, internal-error)."""


@dataclass(frozen=True, slots=True)
class Moderation:
    """How long to pause after a read: one millisecond per `events_per_ms` events, within limits.

    The unit is the millisecond because uvloop's timers have that resolution.
    """

    events_per_ms: int
    at_most_ms: int
    at_least_ms: int = 0


class Owner(Protocol):
    """What a wire calls. Each call names the wire, because a wire may outlive its epoch."""

    def received(self, wire: "Wire", events: list[Event]) -> None:
        """One read of the socket brought these events."""

    def writable(self, wire: "Wire") -> None:
        """The socket accepts data again."""

    def end(self, error: Exception, wire: "Wire | None" = None) -> None:
        """The epoch has ended."""


class Wire(asyncio.StreamReaderProtocol):
    """Keeps the frames that carry messages, passes all other frames on, and writes the lane's own frames.

    Under load it moderates reads as network cards moderate interrupts: after a read with many events it pauses briefly,
    and the next batch collects in the kernel. `moderation` decides whether a read with few events is followed by a
    pause too.

    Args:
        reader: aiormq's stream reader.
        splitter: splits the stream into events and frames to pass on.
        link: receives the events.
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
        """Drop the socket and all unsent data."""
        if self._socket is not None:
            self._socket.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._socket = cast("asyncio.Transport", transport)  # uvloop's transport has the methods but is no subclass

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
            # aiormq judges by its last frame whether the broker is alive, and kept frames do not reach it. So give it a
            # heartbeat. Not during the handshake, where no frame is kept: there a heartbeat is an error.
            passed = frames.HEARTBEAT_FRAME
        if passed:
            self._passed_at = now
            super().data_received(passed)
        if events:
            if passed:  # watched frames are always passed on too
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
        """Handle the events that concern the link; return the others."""
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


# AMQP 0-9-1 section 1.2. 320 is connection-forced: an operator closed the connection, or the broker stops.
_KINDS: dict[int, type[ConnectionError]] = {320: ConnectionError, 541: BrokerFault}


def _close_reason(arguments: bytes) -> str:
    code = int.from_bytes(arguments[:2])
    return f"{code} {arguments[3 : 3 + arguments[2]].decode('utf-8', 'replace')}"
