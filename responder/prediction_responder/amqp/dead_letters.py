"""The dead-letter queue: read dead letters, send one again, forward the reply to its original caller.

A letter stays unsettled until its fate is known. It is not moved back to its request queue: this program sends the
request itself and reads the reply, so it knows the outcome. No letter is lost, however this program ends.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from amqp_lane import Binding, Delivery, Fate, Inbox, Message, Outbox, QueueSpec, Settlement, Template, header_field
from prediction_responder.amqp.connect import wait_until_up
from prediction_responder.amqp.requests import ReplyPolicy
from prediction_responder.observe.logs import printable
from prediction_schemas import Code, Failure, MalformedReply, decode_reply
from prediction_schemas.wire import DEADLINE, REPLY_HEADERS, REPLY_TYPES, REQUEST_HEADERS, Addresses

REASON, QUEUE = b"x-first-death-reason", b"x-first-death-queue"  # RabbitMQ's guide to dead-lettering
QUIET_S = 1.0  # this long without a delivery: the queue is read to its end
COPIES_S = 5.0
REPLY_PREFIX = "redrive-"
ANSWERED, NO_CALLER = "answered", "answered; its caller is gone"
_KEPT_CODES = frozenset({Code.MODEL_CRASHED.name, Code.DEADLINE_EXCEEDED.name})


@dataclass(slots=True)
class Letter:
    """A dead letter.

    Args:
        model: the model of its request queue: the queue's name without our prefix; empty if the queue is not ours.
        reason: RabbitMQ's death reason: rejected, expired, maxlen or delivery_limit.
        fate: how its redrive ended; empty until that is known.
    """

    delivery: Delivery
    model: str
    reason: str
    fate: str = ""

    @property
    def identifier(self) -> str:
        """The caller's correlation id, printable."""
        return printable((self.delivery.properties.correlation_id or b"")[:40].decode("ascii", "backslashreplace"))

    @property
    def has_user(self) -> bool:
        """Whether its property `user_id` is set."""
        return self.delivery.properties.user_id is not None

    @property
    def is_damaged(self) -> bool:
        """Whether it cannot be sent again: its properties are damaged, or its body is too large."""
        return self.delivery.properties.broken or self.delivery.body is None

    @property
    def is_reply(self) -> bool:
        """Whether it is a reply, not a request."""
        return self.delivery.properties.type in REPLY_TYPES

    @property
    def is_our_copy(self) -> bool:
        """Whether an earlier redrive sent it; the original is still in the queue."""
        return (self.delivery.properties.reply_to or b"").startswith(REPLY_PREFIX.encode())


class DeadLetters:
    """The connections of one redrive: an async context manager, which opens and closes them.

    Args:
        url: the broker.
        addresses: of the deployment.
        policy: where replies may go.
        prefetch: the maximum number of unsettled letters.
        reply_exchange: of the deployment; empty for the default exchange.

    Raises:
        NotReached: on entering: no broker, no dead-letter queue, or no permission to read it.
    """

    def __init__(
        self, url: str, addresses: Addresses, policy: ReplyPolicy, *, prefetch: int, reply_exchange: str
    ) -> None:
        self._address = f"{REPLY_PREFIX}{secrets.token_hex(8)}"
        self._addresses = addresses
        self._policy = policy
        binding = Binding(reply_exchange, self._address) if reply_exchange else None
        self._dead = Inbox(
            url,
            [QueueSpec(addresses.dead_letters)],
            name="redrive",
            prefetch=prefetch,
            headers=(REASON, QUEUE, *REQUEST_HEADERS),
            declare=False,
        )
        self._replies = Inbox(
            url,
            [QueueSpec(self._address, durable=False, exclusive=True, binding=binding)],
            name="redrive replies",
            prefetch=10,
            headers=REPLY_HEADERS,
            no_ack=True,
        )
        self._requests = Outbox(url, name="redrive requests", on_fate=_set_fates)
        self._answers = Outbox(url, name="redrive answers", exchange=reply_exchange, on_fate=_set_fates, nack_retries=4)
        self._letters, self._answered = _Batches(self._dead), _Batches(self._replies)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        parts = (self._dead, self._replies, self._requests, self._answers)
        async with self._stack:
            for part in parts:
                await self._stack.enter_async_context(part)
            await wait_until_up(parts)
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def read(self, limit: int) -> list[Letter]:
        """Read the letters that are in the queue now: at least `limit`, if it holds that many."""
        letters: list[Letter] = []
        while len(letters) < limit and (batch := await self._letters.next(QUIET_S)):
            letters += map(self._letter, batch)
        return letters

    async def ask(self, letter: Letter, timeout_s: float) -> Delivery | str:
        """Send the request of a letter again. Returns its reply, or why the letter must stay."""
        identifier = secrets.token_hex(8).encode()
        try:
            async with asyncio.timeout(timeout_s):
                fate = await _publish(self._requests, self._request(letter, identifier, timeout_s))
                if fate is not Fate.CONFIRMED:
                    return f"its request queue did not accept it ({fate.name.lower()})"
                while True:
                    for reply in await self._answered.next():
                        if reply.properties.correlation_id == identifier:
                            return _why_it_stays(reply) or reply
        except TimeoutError:
            return f"no reply within {timeout_s:g} s"

    async def forward(self, letter: Letter, reply: Delivery) -> str:
        """Send a reply to the caller of a letter, as the responder would have. Returns the letter's fate."""
        asked, given = letter.delivery.properties, reply.properties
        if not asked.reply_to or not self._policy.accepts(asked.reply_to, asked.user_id):
            return NO_CALLER
        answer = Message(
            asked.reply_to,
            reply.body or b"",
            Template(content_type=given.content_type, type=given.type, persistent=True),
            correlation_id=asked.correlation_id if asked.correlation_id is not None else asked.message_id,
            fields=_fields((name, given.headers.get(name)) for name in REPLY_HEADERS),
            mandatory=not asked.reply_to.startswith(b"amq."),
            retry=False,
        )
        fate = await _publish(self._answers, answer)
        fates = {Fate.CONFIRMED: ANSWERED, Fate.RETURNED: NO_CALLER}
        return fates.get(fate, "kept: its answer could not be delivered")

    def remove(self, letter: Letter) -> None:
        """Remove a letter from the queue."""
        self._dead.settle([letter.delivery], Settlement.ACK)

    async def give_back(self, letters: Sequence[Letter]) -> None:
        """Requeue letters. RabbitMQ 4.3 counts no attempt for a requeued message, but one when a connection is lost."""
        self._dead.settle([letter.delivery for letter in letters], Settlement.REQUEUE)
        await self._dead.stop()

    async def remove_copies(self, count: int) -> None:
        """Remove our own requests that were dead-lettered as well; the originals are still in the queue."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COPIES_S):
                while count > 0:
                    batch = await self._letters.next()
                    ours = [one for one in batch if one.properties.reply_to == self._address.encode()]
                    self._dead.settle(ours, Settlement.ACK)
                    count -= len(ours)

    def _letter(self, delivery: Delivery) -> Letter:
        headers = delivery.properties.headers
        queue = printable((headers.get(QUEUE) or b"").decode("utf-8", "replace"))
        reason = printable((headers.get(REASON) or b"").decode("ascii", "replace"))
        return Letter(delivery, self._addresses.model_of(queue), reason or "unknown")

    def _request(self, letter: Letter, identifier: bytes, timeout_s: float) -> Message:
        given = letter.delivery.properties
        return Message(
            self._addresses.requests(letter.model).encode(),
            letter.delivery.body or b"",
            Template(
                content_type=given.content_type,
                content_encoding=given.content_encoding,
                reply_to=self._address.encode(),
                type=given.type,
                user_id=given.user_id,
                persistent=True,
            ),
            correlation_id=identifier,
            expiration=b"%d" % round(timeout_s * 1000),
            fields=_fields((name, given.headers.get(name)) for name in REQUEST_HEADERS if name != DEADLINE),
        )


def _fields(headers: Iterable[tuple[bytes, bytes | None]]) -> bytes:
    return b"".join(header_field(name, value) for name, value in headers if value is not None)


async def _publish(outbox: Outbox, message: Message) -> Fate:
    fate: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
    message.token = fate
    outbox.send((message,))
    return await fate


def _set_fates(messages: Sequence[Message], fate: Fate) -> None:
    for message in messages:
        if not message.token.done():
            message.token.set_result(fate)


def _why_it_stays(reply: Delivery) -> str | None:
    """Why a letter stays although a reply came; None if the reply, a result or a lasting error, is to be forwarded."""
    try:
        said = decode_reply(reply.body or b"")
    except MalformedReply as error:
        return str(error)
    stays = isinstance(said, Failure) and (said.retryable or said.code in _KEPT_CODES)
    return said.code if isinstance(said, Failure) and stays else None


class _Batches:
    """The batches of an inbox, each awaited with a time limit."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._batches: AsyncIterator[list[Delivery]] | None = None
        self._next: asyncio.Future[list[Delivery]] | None = None

    async def next(self, timeout_s: float | None = None) -> list[Delivery]:
        """The next batch; an empty one if no delivery came in time."""
        if self._batches is None:
            self._batches = aiter(self._inbox)
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._batches))
            # Retrieve its error here: asyncio would log it if the last batch is never awaited.
            self._next.add_done_callback(lambda one: one.cancelled() or one.exception())
        done, _ = await asyncio.wait({self._next}, timeout=timeout_s)
        if not done:
            return []
        batch, self._next = self._next.result(), None
        return batch
