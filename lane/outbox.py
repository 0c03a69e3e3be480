"""Messages out, in one write for each turn of the event loop; what became of each, in batches."""

import asyncio
import logging
import math
import secrets
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from lane import frames
from lane.connection import Channel, Link
from lane.frames import Event, encode_content, encode_publish, locate, tag_and_multiple
from lane.port import Fate, Message
from lane.quarantine import Quarantine
from lane.wire import BrokerFault, BrokerRefusal, Moderation

log = logging.getLogger("lane")

MAX_ATTEMPTS = 5  # then a message is sent alone
SWEEP_EVERY_S = 1.0
# Nobody waits for a confirm but an acknowledgement, which waits for others anyway.
MODERATION = Moderation(events_per_ms=2, at_least_ms=2, at_most_ms=5)
ROUTES_KEPT = 4096
NACK_DELAY_S = 0.2  # doubled with each attempt
# On RabbitMQ 3.10 a channel that publishes to a quorum queue between two leaders is refused everything for ever, and a
# fresh one is not. But a queue that is full refuses as well, so a channel is given up only now and then.
NACK_PATIENCE_S = 1.0
RENEW_EVERY_S = 10.0
SUSPECTS_KEPT, GUILTY = 1024, 2


class Outbox:
    """Publishes messages with confirms, on a connection of its own, and reports each one's fate once.

    Args:
        url, name, heartbeat_s: see `lane.connection.Link`.
        exchange: where to publish; the empty name is the default exchange.
        patience_s: how long a broker that takes messages may leave one unconfirmed before it is ABANDONED. While the
            connection is down or the broker has blocked us, messages wait as long as their `give_up_at` allows.
        nack_retries: how often a message that the broker refuses is sent again, if it may be, before it is REFUSED.
        max_body_bytes: a larger message is REFUSED before it reaches the broker, which would close the channel.
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
        self._exchange = exchange.encode()
        self._patience_s = patience_s
        self._nack_retries = nack_retries
        self._max_body_bytes = max_body_bytes
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
        self._unconfirmed: dict[int, Message] = {}
        self._resting: set[Message] = set()  # refused, and sent again in a while
        self._quarantine = Quarantine()
        self._refused_since: float | None = None
        self._refused_last = -math.inf
        self._renewed_at = -math.inf
        self._returned: set[int] = set()
        self._suspects: Counter[bytes] = Counter()
        self._number = 0
        self._settled_to = 0
        self._routes: dict[tuple[bytes, bool], bytes] = {}
        self._prefix = b""
        self._flush_scheduled = False
        self._flowing_since = 0.0
        self._empty = asyncio.Event()
        self._empty.set()
        self._sweeper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Outbox {self._link!r} waiting={len(self._waiting)} unconfirmed={len(self._unconfirmed)}>"

    @property
    def is_up(self) -> bool:
        """True while messages can be written."""
        return self._link.is_up

    @property
    def unconfirmed(self) -> int:
        """Messages whose fate is not known yet."""
        return len(self._waiting) + len(self._unconfirmed) + len(self._resting) + self._quarantine.waiting

    @property
    def last_error(self) -> str | None:
        """Why the last attempt to connect failed, in one line; None once it has worked."""
        return self._link.last_error

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
        """Publish messages; each one's fate comes later, to `on_fate`."""
        self._waiting.extend(messages)
        self._empty.clear()
        # The first messages of a turn go at once, for somebody waits for them; those that follow share a write.
        if not self._flush_scheduled:
            self._flush()
            self._schedule()

    async def drained(self) -> None:
        """Wait until the fate of every message so far is known."""
        await self._empty.wait()

    def _schedule(self) -> None:
        if not self._flush_scheduled and self._channel is not None:
            self._flush_scheduled = True
            self._channel.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Write what waits, unless the socket is full or the broker has blocked us: then it goes on waiting."""
        self._flush_scheduled = False
        channel = self._channel
        if channel is None or not channel.can_write or not self._link.is_up:
            return
        waiting, unconfirmed = self._waiting, self._unconfirmed
        if self._quarantine.waiting and (self._quarantine.is_due or not waiting):
            if unconfirmed:  # what is sent next must be alone
                return
            waiting = deque((self._quarantine.next(),))
        elif self._quarantine.alone is not None:
            return
        else:
            self._quarantine.is_due = True  # after this batch
        refused: list[Message] = []
        withdrawn: list[Message] = []
        written: list[bytes] = []
        now = channel.loop.time()
        while waiting:
            message = waiting.popleft()
            if message.give_up_at <= now:
                withdrawn.append(message)
                continue
            if self._suspects and self._suspects.get(message.routing_key, 0) >= GUILTY:
                log.warning("a message was not sent: the broker failed on its address before")
                refused.append(message)
                continue
            try:
                written += self._encode(channel, message)
            except ValueError as error:
                log.warning("a message was not sent: %s", error)
                refused.append(message)
                continue
            message.written_at = now
            unconfirmed[self._number] = message
        if written:
            channel.write(b"".join(written))
        else:
            self._go_on()
        self._report(refused, Fate.REFUSED)
        self._report(withdrawn, Fate.ABANDONED)

    def _encode(self, channel: Channel, message: Message) -> tuple[bytes, bytes]:
        """The frames of a message, which gets the next number; the number advances only if it can be written."""
        if len(message.body) > self._max_body_bytes:
            msg = f"its body has {len(message.body)} bytes, the limit is {self._max_body_bytes}"
            raise ValueError(msg)
        route = message.routing_key, message.mandatory
        head = self._routes.get(route)
        if head is None:
            head = encode_publish(channel.number, self._exchange, message.routing_key, mandatory=message.mandatory)
            if len(self._routes) >= ROUTES_KEPT:
                self._routes.clear()
            self._routes[route] = head
        # A return carries the message and not its number, so the number travels as the message's id.
        identifier = b"%s%d" % (self._prefix, self._number + 1) if message.mandatory else None
        content = encode_content(
            channel.number,
            message.template,
            message.body,
            channel.frame_max,
            correlation_id=message.correlation_id,
            expiration=message.expiration,
            message_id=identifier,
            fields=message.fields,
        )
        self._number += 1
        return head, content

    async def opened(self, channel: Channel) -> None:
        """From the link: numbers begin anew, and what waited may go."""
        self._channel = channel
        self._number = 0
        self._settled_to = 0
        self._refused_since = None
        self._routes = {}
        self._prefix = f"{secrets.token_hex(6)}-".encode()
        asyncio.get_running_loop().call_soon(self._schedule)

    def received(self, events: list[Event]) -> None:
        """From the link: confirms and returns. A return comes before the confirm of the same message."""
        confirmed: list[Message] = []
        refused: list[Message] = []
        returned: list[Message] = []
        unconfirmed = self._unconfirmed
        for method, arguments, header, _ in events:
            if method == frames.BASIC_RETURN:
                self._note_return(header)
                continue
            number, multiple = tag_and_multiple(arguments)
            for one in range(self._settled_to + 1, number + 1) if multiple else (number,):
                message = unconfirmed.pop(one, None)
                if message is None:
                    continue
                if one in self._returned:
                    self._returned.discard(one)
                    returned.append(message)
                elif method == frames.BASIC_ACK:
                    confirmed.append(message)
                else:
                    refused.append(message)
            # Everything up to here is settled, so that no later `multiple` looks at it again.
            settled_to = max(self._settled_to, number) if multiple else self._settled_to
            while settled_to < self._number and settled_to + 1 not in unconfirmed:
                settled_to += 1
            self._settled_to = settled_to
        if confirmed or returned:
            self._refused_since = None
            self._link.has_worked = True
            self._quarantine.note_confirms(len(confirmed) + len(returned))
        self._go_on()
        if refused:  # first: those that are sent again must be counted before anything is called empty
            self._refuse(refused)
        self._report(confirmed, Fate.CONFIRMED)
        self._report(returned, Fate.RETURNED)

    def _refuse(self, messages: list[Message]) -> None:
        """The broker would not have them. Some are sent again; a channel that is refused everything is given up."""
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
        if is_hopeless and all(message.retry for message in self._unconfirmed.values()):
            self._renewed_at = now
            self._link.end(ConnectionError("the broker refuses everything on this channel"))

    def _go_on(self) -> None:
        """Nothing is unconfirmed: whoever had to be alone, or had to wait for that, has its turn."""
        if not self._unconfirmed:
            self._quarantine.release()
            if self._waiting or self._quarantine.waiting:
                self._schedule()

    def _again(self, message: Message) -> None:
        if message in self._resting:  # and was not given up meanwhile
            self._resting.remove(message)
            self._waiting.append(message)
            self._schedule()

    def _note_return(self, header: bytes) -> None:
        identifier = locate(header, ()).message_id or b""
        number = identifier.removeprefix(self._prefix)
        if identifier.startswith(self._prefix) and number.isdigit() and int(number) in self._unconfirmed:
            self._returned.add(int(number))

    def writable(self) -> None:
        """From the link: the socket takes more."""
        self._schedule()

    def lost(self, error: Exception) -> None:
        """From the link: what was not confirmed may or may not have arrived. It is sent again, or given up."""
        self._channel = None
        if isinstance(error, BrokerFault):
            self._suspect({message.routing_key for message in self._unconfirmed.values() if not message.retry})
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        self._returned = set()
        is_refusal = isinstance(error, BrokerRefusal)
        lone = self._quarantine.alone
        guilty = [lone] if self._quarantine.is_guilty(by_the_broker=is_refusal) and lone is not None else []
        if guilty:
            log.warning("a message was given up: the broker closes its channel whenever it is sent: %s", error)
        abandoned: list[Message] = []
        again: list[Message] = []
        suspects: list[Message] = []
        for message in unconfirmed.values():
            message.attempts += 1
            if message is lone:
                continue
            if not message.retry:
                abandoned.append(message)
            elif is_refusal or message.attempts >= MAX_ATTEMPTS:
                suspects.append(message)
            else:
                again.append(message)
        self._waiting.extendleft(reversed(again))
        self._quarantine.hold(suspects)
        self._report(abandoned, Fate.ABANDONED)
        self._report(guilty, Fate.REFUSED)

    def _suspect(self, addresses: set[bytes]) -> None:
        """The broker failed on one of these (RabbitMQ 3.10 does on a stale direct reply-to address).

        One that stood alone is guilty; one among others is guilty when it is there a second time.
        """
        if len(self._suspects) > SUSPECTS_KEPT:
            self._suspects.clear()
        for address in addresses:
            self._suspects[address] += GUILTY if len(addresses) == 1 else 1

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
        """Give up what makes no sense any more, and what was written too long ago and is not confirmed."""
        late = [message for message in self._waiting if message.give_up_at <= now]
        if late:
            self._waiting = deque(message for message in self._waiting if message.give_up_at > now)
        late += self._quarantine.give_up(now)
        late += [message for message in self._resting if message.give_up_at <= now]
        self._resting = {message for message in self._resting if message.give_up_at > now}
        numbers = [
            number
            for number, message in self._unconfirmed.items()
            if message.give_up_at <= now or message.written_at <= written_before
        ]
        late += [self._unconfirmed.pop(number) for number in numbers]
        self._go_on()
        self._report(late, Fate.ABANDONED)

    def _report(self, messages: list[Message], fate: Fate) -> None:
        if not self.unconfirmed:
            self._empty.set()
        if messages:
            self._on_fate(messages, fate)
