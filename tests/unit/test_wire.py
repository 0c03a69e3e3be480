"""The stream protocol: what it keeps, what it passes on, and when it pauses."""

import asyncio
from typing import Any

import pamqp.frame
from pamqp import commands

from amqp_lane import frames
from amqp_lane.encoding import encode_settlement
from amqp_lane.frames import Event, Splitter
from amqp_lane.wire import WATCHED, BrokerFault, Moderation, Wire

ACK = frames.BASIC_ACK


class Socket(asyncio.Transport):
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.was_aborted = False
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()

    def pause_reading(self) -> None:
        self.paused.set()

    def resume_reading(self) -> None:
        self.resumed.set()

    def abort(self) -> None:
        self.was_aborted = True

    def is_closing(self) -> bool:
        return self.was_aborted


class Owner:
    """Whom a wire tells."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ends: list[Exception] = []

    def received(self, _wire: Wire, events: list[Event]) -> None:
        """Note them."""
        self.events += events

    def writable(self, _wire: Wire) -> None:
        """Nothing waits."""

    def end(self, error: Exception, _wire: Wire | None = None) -> None:
        """Note it."""
        self.ends.append(error)


def wire(owner: Owner) -> tuple[Wire, Socket, asyncio.StreamReader]:
    """A wire on a socket, and aiormq's reader behind it."""
    reader, socket = asyncio.StreamReader(), Socket()
    one = Wire(reader, Splitter((ACK,), WATCHED, 1000), owner, Moderation(events_per_ms=8, at_most_ms=2))
    one.connection_made(socket)
    return one, socket, reader


def confirms(count: int) -> bytes:
    """So many acknowledgements."""
    return b"".join(encode_settlement(ACK, 1, number, 0) for number in range(1, count + 1))


async def test_a_read_with_many_events_is_followed_by_a_pause_and_a_quiet_one_is_not() -> None:
    """What has come is handed over before the pause, and reading goes on after it."""
    owner = Owner()
    one, socket, _ = wire(owner)
    one.data_received(confirms(7))
    assert not socket.paused.is_set()
    one.data_received(confirms(40))
    assert len(owner.events) == 47
    assert socket.paused.is_set()
    async with asyncio.timeout(1):
        await socket.resumed.wait()


async def test_a_socket_that_went_away_in_a_pause_is_left_alone() -> None:
    """Reading on is for those who are still there."""
    owner = Owner()
    one, socket, _ = wire(owner)
    one.data_received(confirms(40))
    one.connection_lost(None)
    done = asyncio.Event()
    asyncio.get_running_loop().call_later(0.005, done.set)  # after the longest pause
    await done.wait()
    assert not socket.resumed.is_set()
    assert len(owner.ends) == 1


async def test_what_is_kept_leaves_a_heartbeat_for_aiormq_once_in_a_while() -> None:
    """It takes the time of its last frame for the broker's last sign of life."""
    owner = Owner()
    one, _, reader = wire(owner)
    for _ in range(50):
        one.data_received(confirms(1))
    assert await reader.readexactly(8) == frames.HEARTBEAT_FRAME
    reader.feed_eof()
    assert await reader.read() == b""


async def test_a_damaged_stream_drops_the_connection_and_nothing_escapes() -> None:
    """Nothing after it can be trusted."""
    owner = Owner()
    one, socket, _ = wire(owner)
    one.data_received(confirms(1)[:-1] + b"\x00")
    assert socket.was_aborted
    assert owner.events == []


async def test_a_watched_method_ends_the_epoch_in_the_same_step_and_is_passed_on() -> None:
    """`channel.close` and `basic.cancel`: aiormq answers them, and nothing of the epoch is written any more."""
    goodbyes: list[Any] = [
        commands.Connection.Close(541, "INTERNAL_ERROR", 0, 0),
        commands.Channel.Close(406, "a test", 60, 80),
        commands.Basic.Cancel("lane-0", nowait=True),
    ]
    for goodbye in goodbyes:
        owner = Owner()
        one, _, reader = wire(owner)
        data = pamqp.frame.marshal(goodbye, 1)
        one.data_received(confirms(1) + data + confirms(1))
        assert len(owner.ends) == 1
        assert isinstance(owner.ends[0], BrokerFault) is isinstance(goodbye, commands.Connection.Close)
        assert await reader.readexactly(len(data)) == data


async def test_a_handshake_that_comes_in_pieces_is_not_interrupted_by_a_heartbeat() -> None:
    """aiormq expects `connection.start` first, and nothing that the broker has not sent."""
    owner = Owner()
    one, _, reader = wire(owner)
    start = pamqp.frame.marshal(commands.Connection.Start(0, 9, {"product": "x" * 50}, "PLAIN", "en_US"), 0)
    for at in range(len(start)):
        one.data_received(start[at : at + 1])
    assert await reader.readexactly(len(start)) == start
    reader.feed_eof()
    assert await reader.read() == b""
