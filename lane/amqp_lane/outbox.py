"""Publishes messages in one write for each turn of the event loop, and reports their fates in batches."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from amqp_lane import frames
from amqp_lane.confirms import Confirms
from amqp_lane.connection import Channel, Link, describe
from amqp_lane.frames import Event
from amqp_lane.port import Fate, Message
from amqp_lane.quarantine import FailedAddresses, Quarantine
from amqp_lane.wire import BrokerFault, BrokerRefusal, Moderation

log = logging.getLogger("amqp_lane")

MAX_ATTEMPTS = 5  # after so many attempts a message is sent alone
SWEEP_EVERY_S = 1.0
# A pause delays only confirms, and so the acknowledgements that follow them, which are batched anyway.
MODERATION = Moderation(events_per_ms=2, at_least_ms=2, at_most_ms=5)
NACK_DELAY_S = 0.2  # doubled with each attempt
# RabbitMQ 3.10 nacks everything on a channel that published to a quorum queue while the queue had no leader, and never
# recovers; a new channel works. A full queue nacks as well, so a channel is replaced at most every RENEW_EVERY_S.
NACK_PATIENCE_S = 1.0
RENEW_EVERY_S = 10.0


class Outbox:
    """Publishes messages with confirms, on its own connection, and reports the fate of each message once.

    Args:
        url, name, heartbeat_s: see `amqp_lane.connection.Link`.
        exchange: where to publish; the empty name is the default exchange.
        patience_s: a message that stays unconfirmed for longer while the broker accepts data is ABANDONED. While the
            connection is down or the broker has blocked publishers, messages wait until their `give_up_at`.
        nack_retries: how often a nacked message is sent again, if its `retry` allows it, before it is REFUSED.
        max_body_bytes: a larger message is REFUSED here, because the broker would close the channel on it.
        on_fate: called with messages and the fate that they share.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        on_fate: Callable[[list[Message], Fate], None],
        exchange: str = "",
        heartbeat_s: int = 10,
        patience_s: float = 10.0,
        nack_retries: int = 0,
        max_body_bytes: int = 16 * 2**20,
    ) -> None:
        self._patience_s = patience_s
        self._nack_retries = nack_retries
        self._on_fate = on_fate
        self._link = Link(
            url,
            self,
            name=name,
            heartbeat_s=heartbeat_s,
            keep=(frames.BASIC_ACK, frames.BASIC_NACK, frames.BASIC_RETURN),
            confirms=True,
            moderation=MODERATION,
        )
        self._channel: Channel | None = None
        self._waiting: deque[Message] = deque()
        self._confirms = Confirms(exchange.encode(), max_body_bytes)
        self._resting: set[Message] = set()  # nacked; to be sent again after a delay
        self._quarantine = Quarantine()
        self._failed_addresses = FailedAddresses()
        self._refused_since: float | None = None
        self._refused_last = -math.inf
        self._renewed_at = -math.inf
        self._flush_scheduled = False
        self._flowing_since = 0.0
        self._empty = asyncio.Event()
        self._empty.set()
        self._lost_because: str | None = None
        self._sweeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        unconfirmed = len(self._confirms.unconfirmed)
        return f"<Outbox {self._link!r} waiting={len(self._waiting)} unconfirmed={unconfirmed}>"

    @property
    def is_up(self) -> bool:
        """True while messages can be written."""
        return self._link.is_up

    @property
    def unconfirmed(self) -> int:
        """How many messages have no known fate yet."""
        written = len(self._confirms.unconfirmed)
        return len(self._waiting) + written + len(self._resting) + self._quarantine.waiting

    @property
    def last_error(self) -> str | None:
        """Why the last connection ended, in one line; None when the broker has taken a message since."""
        return self._link.last_error or self._lost_because

    async def up(self) -> None:
        """Wait until messages can be written."""
        await self._link.up()

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        self._sweeper = asyncio.create_task(self._sweep(), name="outbox sweeper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._link.__aexit__(kind, error, trace)
        self._abandon(math.inf, math.inf)

    def send(self, messages: Sequence[Message]) -> None:
        """Publish messages; `on_fate` gets the fate of each later."""
        self._waiting.extend(messages)
        self._empty.clear()
        # The first messages of a turn are written at once, to save latency; the later ones share a write.
        if not self._flush_scheduled:
            self._flush()
            self._schedule()

    async def drained(self) -> None:
        """Wait until the fate of every message sent so far is known."""
        await self._empty.wait()

    def _schedule(self) -> None:
        if not self._flush_scheduled and self._channel is not None:
            self._flush_scheduled = True
            self._channel.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write the waiting messages, unless the socket is full or the broker has blocked publishers."""
        self._flush_scheduled = False
        channel = self._channel
        if channel is None or not channel.can_write or not self._link.is_up:
            return
        waiting, failed = self._waiting, self._failed_addresses or None
        if self._quarantine.waiting and (self._quarantine.is_due or not waiting):
            if self._confirms.unconfirmed:  # the next message must be alone
                return
            waiting = deque((self._quarantine.next(),))
        elif self._quarantine.alone is not None:
            return
        else:
            self._quarantine.is_due = True  # after this batch
        refused: list[Message] = []
        withdrawn: list[Message] = []
        written: list[bytes] = []
        now, publish = channel.loop.time(), self._confirms.publish
        while waiting:
            message = waiting.popleft()
            if message.give_up_at <= now:
                withdrawn.append(message)
                continue
            if failed is not None and failed.is_barred(message.routing_key):
                log.warning("a message was not sent: the broker has failed on its address before")
                refused.append(message)
                continue
            message.written_at = now
            try:
                written += publish(message)
            except ValueError as error:
                log.warning("a message was not sent: %s", error)
                refused.append(message)
        if written:
            channel.write(b"".join(written))
        else:
            self._go_on()
        self._report(refused, Fate.REFUSED)
        self._report(withdrawn, Fate.ABANDONED)

    async def opened(self, channel: Channel) -> None:
        """Called by the link: restart the sequence numbers, and send the waiting messages."""
        self._channel = channel
        self._refused_since = None
        self._confirms.begin(channel.number, channel.frame_max)
        asyncio.get_running_loop().call_soon(self._schedule)

    def received(self, events: list[Event]) -> None:
        """Called by the link, with confirms and returns."""
        confirmed, refused, returned = self._confirms.settle(events)
        if confirmed or returned:
            self._refused_since = self._lost_because = None
            self._link.has_worked = True
            self._quarantine.note_confirms(len(confirmed) + len(returned))
        self._go_on()
        if refused:  # before the reports: messages to send again must be counted before `_report` may set `_empty`
            self._refuse(refused)
        self._report(confirmed, Fate.CONFIRMED)
        self._report(returned, Fate.RETURNED)

    def _refuse(self, messages: list[Message]) -> None:
        """Handle nacks: send messages again if they may be, and replace a channel on which everything is nacked."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        final: list[Message] = []
        for message in messages:
            if message.retry and message.attempts < self._nack_retries:
                delay_s = NACK_DELAY_S * 2**message.attempts
                message.attempts += 1
                self._resting.add(message)
                loop.call_later(delay_s, self._again, message)
            else:
                final.append(message)
        self._report(final, Fate.REFUSED)
        if self._refused_since is None or now - self._refused_last > NACK_PATIENCE_S:
            self._refused_since = now
        self._refused_last = now
        is_hopeless = now - self._refused_since > NACK_PATIENCE_S and now - self._renewed_at > RENEW_EVERY_S
        if is_hopeless and all(message.retry for message in self._confirms.unconfirmed.values()):
            self._renewed_at = now
            self._link.end(ConnectionError("the broker refuses everything on this channel"))

    def _go_on(self) -> None:
        """When all is confirmed, let the quarantined message, or the queue behind it, go."""
        if not self._confirms.unconfirmed:
            self._quarantine.release()
            if self._waiting or self._quarantine.waiting:
                self._schedule()

    def _again(self, message: Message) -> None:
        if message in self._resting:  # else it was given up during the delay
            self._resting.remove(message)
            self._waiting.append(message)
            self._schedule()

    def writable(self) -> None:
        """Called by the link: the socket accepts data again."""
        self._schedule()

    def lost(self, error: Exception) -> None:
        """Called by the link. Unconfirmed messages may or may not have arrived: send them again, or give them up."""
        self._channel = None
        self._lost_because = describe(error)
        unconfirmed = self._confirms.end()
        if isinstance(error, BrokerFault):
            once = {message.routing_key for message in unconfirmed.values() if not message.retry}
            self._failed_addresses.note(once)
        is_refusal = isinstance(error, BrokerRefusal)
        lone = self._quarantine.alone
        at_fault = [lone] if self._quarantine.is_at_fault(by_the_broker=is_refusal) and lone is not None else []
        if at_fault:
            log.warning("a message was given up: the broker closes its channel whenever it is sent: %s", error)
        abandoned: list[Message] = []
        again: list[Message] = []
        held: list[Message] = []
        for message in unconfirmed.values():
            message.attempts += 1
            if message is lone:
                continue
            if not message.retry:
                abandoned.append(message)
            elif is_refusal or message.attempts >= MAX_ATTEMPTS:
                held.append(message)
            else:
                again.append(message)
        self._waiting.extendleft(reversed(again))
        self._quarantine.hold(held)
        self._report(abandoned, Fate.ABANDONED)
        self._report(at_fault, Fate.REFUSED)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            now = asyncio.get_running_loop().time()
            flowing = self._channel is not None and self._channel.can_write
            if not flowing:
                self._flowing_since = now
            patient = flowing and now - self._flowing_since < self._patience_s
            self._abandon(now, -math.inf if patient or not flowing else now - self._patience_s)

    def _abandon(self, now: float, written_before: float) -> None:
        """Give up the messages past their `give_up_at`, and those written too long ago and still not confirmed."""
        late = [message for message in self._waiting if message.give_up_at <= now]
        if late:
            self._waiting = deque(message for message in self._waiting if message.give_up_at > now)
        late += self._quarantine.give_up(now)
        late += [message for message in self._resting if message.give_up_at <= now]
        self._resting = {message for message in self._resting if message.give_up_at > now}
        late += self._confirms.give_up(now, written_before)
        self._go_on()
        self._report(late, Fate.ABANDONED)

    def _report(self, messages: list[Message], fate: Fate) -> None:
        if not self.unconfirmed:
            self._empty.set()
        if messages:
            self._on_fate(messages, fate)
