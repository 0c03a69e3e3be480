"""Dead letters, asked once more, one at a time; what comes of it goes to those who had asked.

A letter stays unsettled in the dead-letter queue until its fate is known. It is not moved back to its queue but asked
by us, so that we see what becomes of it: an answer goes to the requester and the letter is done; an input that still
cannot be answered stays where it is. Whatever ends this program, no letter is lost.
"""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from lane import Binding, Delivery, Fate, Inbox, Message, Outbox, QueueSpec, Settlement, Template, header_field
from responder.logs import printable
from responder.reaching import reached
from responder.settings import Settings
from responder.topology import dead_letter_queue
from responder.wire import HEADERS, REPLY_TYPES, ReplyPolicy
from schemas import Code, Failure, MalformedReply, decode_reply

REASON, QUEUE = b"x-first-death-reason", b"x-first-death-queue"  # RabbitMQ's dead-lettering guide
REPLY_HEADERS = (b"cache-status", b"age", b"model", b"model-version", b"duration-ms")
QUIET_S = 1.0  # a dead-letter queue from which nothing has come for so long is at its end
COPIES_S = 5.0
OURS = "redrive-"
ANSWERED, NOBODY, DROPPED = "answered", "answered, but nobody waits for it any more", "a copy of ours: dropped"
_KEPT_CODES = frozenset({Code.MODEL_CRASHED.name, Code.DEADLINE_EXCEEDED.name})


@dataclass(slots=True)
class Letter:
    """A dead letter.

    Args:
        model: whom it asked; its queue's name without our prefix.
        reason: RabbitMQ's: rejected, expired, maxlen or delivery_limit.
        fate: what became of it; empty until that is known.
    """

    delivery: Delivery
    model: str
    reason: str
    fate: str = ""

    @property
    def is_done(self) -> bool:
        """Whether it may leave the queue."""
        return self.fate in (ANSWERED, NOBODY, DROPPED)

    @property
    def identifier(self) -> str:
        """The requester's correlation id, for people."""
        return printable((self.delivery.properties.correlation_id or b"")[:40].decode("ascii", "backslashreplace"))


@dataclass
class Plan:
    """Which letters are asked again.

    Args:
        model, reason: only these; None for any.
        limit: at most so many are looked at.
        timeout_s: how long one may take.
        dry_run: ask none, and say what would be done.
        impersonate: ask in the name of a letter's user, which the broker allows to users with the tag `impersonator`.
    """

    model: str | None = None
    reason: str | None = None
    limit: int = 1000
    timeout_s: float = 30.0
    dry_run: bool = False
    impersonate: bool = False

    def why_not(self, letter: Letter) -> str | None:
        """Why a letter is left alone; None when it is to be asked again."""
        given = letter.delivery.properties
        if letter.reason == "expired":
            return "skipped: it had expired, and nobody waits for it"
        if self.reason is not None and letter.reason != self.reason:
            return f"skipped: {letter.reason}"
        if self.model is not None and letter.model != self.model:
            return f"skipped: {letter.model}"
        if not letter.model:
            return "kept: it did not come from a request queue of this namespace"
        if given.broken or letter.delivery.body is None:
            return "kept: its properties are damaged, or it is too large"
        if given.type in REPLY_TYPES:
            return "kept: it is a reply"
        if given.user_id is not None and not self.impersonate:
            return "kept: it carries a user; see --impersonate"
        return None


@dataclass
class Redrive:
    """One run over the dead-letter queue.

    Args:
        settings: of the deployment.
        plan: what to do.
        on_letter: told of each letter when its fate is known.
    """

    settings: Settings
    plan: Plan
    on_letter: Callable[[Letter], None] = lambda _letter: None
    letters: list[Letter] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings, url = self.settings, self.settings.amqp_url.get_secret_value()
        self._address = f"{OURS}{secrets.token_hex(8)}"
        binding = Binding(settings.reply_exchange, self._address) if settings.reply_exchange else None
        self._prefix = f"{settings.namespace}predictions."
        self._policy = ReplyPolicy(
            own=f"{settings.namespace}predictions".encode(),
            pattern=settings.reply_to_pattern.encode(),
            exchange=settings.reply_exchange,
        )
        self._dead = Inbox(
            url,
            [QueueSpec(dead_letter_queue(settings.namespace))],
            name="redrive",
            prefetch=self.plan.limit,
            headers=(REASON, QUEUE, *HEADERS),
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
        self._requests = Outbox(url, name="redrive requests", on_fate=self._sent)
        self._answers = Outbox(
            url, name="redrive answers", exchange=settings.reply_exchange, on_fate=self._sent, nack_retries=4
        )

    async def run(self) -> Counter[str]:
        """Go once through what is in the queue; how the letters ended.

        Raises:
            NotReached: there is no broker, or no dead-letter queue, or no right to read it.
        """
        parts = (self._dead, self._replies, self._requests, self._answers)
        async with AsyncExitStack() as stack:
            for part in parts:
                await stack.enter_async_context(part)
            await reached(parts)
            dead, replies = _Batches(self._dead), _Batches(self._replies)
            while len(self.letters) < self.plan.limit and (batch := await dead.next(QUIET_S)):
                self.letters += map(self._letter, batch)
            crashed = 0
            for letter in self.letters:
                letter.fate = await self._fate(letter, replies)
                crashed += letter.fate.endswith(Code.MODEL_CRASHED.name)
                letter.delivery.body = b""
                self.on_letter(letter)
                if letter.is_done:
                    self._dead.settle([letter.delivery], Settlement.ACK)
            await self._drop_copies(dead, crashed)
            # To give back is better than to be found dead with: RabbitMQ 4.3 counts only the latter as an attempt.
            kept = [letter.delivery for letter in self.letters if not letter.is_done]
            self._dead.settle(kept, Settlement.REQUEUE)
            await self._dead.stop()
        return Counter(letter.fate for letter in self.letters)

    def _letter(self, delivery: Delivery) -> Letter:
        headers = delivery.properties.headers
        queue = printable((headers.get(QUEUE) or b"").decode("utf-8", "replace"))
        reason = printable((headers.get(REASON) or b"").decode("ascii", "replace"))
        is_ours = queue.startswith(self._prefix)
        return Letter(delivery, queue.removeprefix(self._prefix) if is_ours else "", reason or "unknown")

    async def _fate(self, letter: Letter, replies: "_Batches") -> str:
        given = letter.delivery.properties
        if (given.reply_to or b"").startswith(OURS.encode()) and not self.plan.dry_run:
            return DROPPED  # of an earlier run: its original is still here
        why_not = self.plan.why_not(letter)
        if why_not is not None or self.plan.dry_run:
            return why_not or "would be asked again"
        reply = await self._ask(letter, replies)
        if isinstance(reply, str):
            return f"kept: {reply}"
        return await self._hand_over(letter, reply)

    async def _ask(self, letter: Letter, replies: "_Batches") -> Delivery | str:
        """The reply to a letter, or why it stays."""
        given, identifier = letter.delivery.properties, secrets.token_hex(8).encode()
        kept = [(name, given.headers.get(name)) for name in HEADERS if name != b"deadline"]
        request = Message(
            f"{self._prefix}{letter.model}".encode(),
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
            expiration=b"%d" % round(self.plan.timeout_s * 1000),
            fields=b"".join(header_field(name, value) for name, value in kept if value is not None),
        )
        try:
            async with asyncio.timeout(self.plan.timeout_s):
                fate = await self._send(self._requests, request)
                if fate is not Fate.CONFIRMED:
                    return f"its queue took it not: {fate.name.lower()}"
                while True:
                    for reply in await replies.next():
                        if reply.properties.correlation_id == identifier:
                            return _unless_it_must_stay(reply)
        except TimeoutError:
            return f"no reply within {self.plan.timeout_s:g} s"

    async def _hand_over(self, letter: Letter, reply: Delivery) -> str:
        """Send a reply on to the requester of a letter, as it would have come without us."""
        asked, given = letter.delivery.properties, reply.properties
        if not asked.reply_to or not self._policy.accepts(asked.reply_to, asked.user_id):
            return NOBODY
        identifier = asked.correlation_id if asked.correlation_id is not None else asked.message_id
        fields = [(name, given.headers.get(name)) for name in REPLY_HEADERS]
        answer = Message(
            asked.reply_to,
            reply.body or b"",
            Template(content_type=given.content_type, type=given.type, persistent=True),
            correlation_id=identifier,
            fields=b"".join(header_field(name, value) for name, value in fields if value is not None),
            mandatory=not asked.reply_to.startswith(b"amq."),
            retry=False,
        )
        fate = await self._send(self._answers, answer)
        return {Fate.CONFIRMED: ANSWERED, Fate.RETURNED: NOBODY}.get(fate, "kept: its answer could not be delivered")

    async def _send(self, outbox: Outbox, message: Message) -> Fate:
        fate: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
        message.token = fate
        outbox.send((message,))
        return await fate

    def _sent(self, messages: Sequence[Message], fate: Fate) -> None:
        for message in messages:
            if not message.token.done():
                message.token.set_result(fate)

    async def _drop_copies(self, dead: "_Batches", count: int) -> None:
        """Our own requests that were dead-lettered in their turn; what they asked is still here."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COPIES_S):
                while count > 0:
                    batch = await dead.next()
                    ours = [one for one in batch if one.properties.reply_to == self._address.encode()]
                    self._dead.settle(ours, Settlement.ACK)
                    count -= len(ours)


def _unless_it_must_stay(reply: Delivery) -> Delivery | str:
    """An answer, or an error that a requester can live with; otherwise why its letter stays."""
    try:
        said = decode_reply(reply.body or b"")
    except MalformedReply as error:
        return str(error)
    stays = isinstance(said, Failure) and (said.retryable or said.code in _KEPT_CODES)
    return said.code if isinstance(said, Failure) and stays else reply


class _Batches:
    """An inbox's batches, for which one may wait for a while."""

    def __init__(self, inbox: Inbox) -> None:
        self._batches: AsyncIterator[list[Delivery]] = aiter(inbox)
        self._next: asyncio.Future[list[Delivery]] | None = None

    async def next(self, timeout_s: float | None = None) -> list[Delivery]:
        """The next one; none after a while in which nothing came."""
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._batches))
            self._next.add_done_callback(
                lambda one: one.cancelled() or one.exception()
            )  # the end, if nobody asks again
        done, _ = await asyncio.wait({self._next}, timeout=timeout_s)
        if not done:
            return []
        batch, self._next = self._next.result(), None
        return batch
