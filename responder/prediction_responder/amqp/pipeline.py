"""The way of a request: batches from the inbox to the service, replies to the outbox, then the acknowledgement.

Every delivery is settled exactly once. It is acknowledged when the fate of its reply is known, or at once if it has no
`reply_to`; dead-lettered instead after MODEL_CRASHED; requeued when the responder stops before its work has ended.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from amqp_lane import Consumer, Delivery, Fate, Message, Publisher, Settlement
from prediction_responder.amqp.replies import message_of
from prediction_responder.amqp.requests import Intake, ReplyPolicy
from prediction_responder.clock import Clock
from prediction_responder.messages import Model, Outcome, Refused, Reply, Request, failure
from prediction_responder.observe.events import Observer, Oddity
from prediction_responder.observe.logs import logger
from prediction_responder.service import Service
from prediction_schemas import NO_STATUS, Code
from prediction_schemas.wire import REPLY_TYPES

log = logger(__name__)

FATES = {fate: fate.name.lower() for fate in Fate}


class Pipeline:
    """Moves batches until it is drained.

    Args:
        models: each by the name of its request queue.
        inbox: where requests come from.
        clock: for deadlines.
        observer: is told of requests, replies and oddities.
        intake, policy: see `prediction_responder.amqp.requests`.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, Model],
        inbox: Consumer,
        intake: Intake,
        policy: ReplyPolicy,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._models = models
        self._inbox = inbox
        self._outbox: Publisher | None = None
        self._service: Service | None = None
        self._dead_letters: set[Delivery] = set()
        self._intake = intake
        self._policy = policy
        self._running: asyncio.Task[None] | None = None
        self._observer = observer
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Pipeline {self._inbox!r} {self._service!r} {self._outbox!r}>"

    async def run(self, service: Service, outbox: Publisher) -> None:
        """Answer requests until the inbox is stopped.

        Args:
            service: answers them; it delivers to `deliver`.
            outbox: sends the replies; it reports to `settle_fates`.
        """
        self._service, self._outbox = service, outbox
        self._running = asyncio.current_task()
        async for batch in self._inbox:
            try:
                requests = self._requests(batch)
                self._observer.received(requests)
                await service.handle(requests)
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException:
                log.exception("batch_failed")
                self._inbox.restart("a batch failed; the broker delivers it again")

    async def drain(self, grace_s: float) -> bool:
        """Stop consuming, requeue requests whose work has not started, finish the rest. Returns whether all finished.

        Requests whose work is not done after the grace period are requeued too: another replica starts them again.
        """
        now_s = self._clock.now_s
        ends_at = now_s() + grace_s
        await self._inbox.stop()
        if self._running is not None:  # a batch whose look-up runs starts its flights first
            await asyncio.wait({self._running}, timeout=max(0.0, ends_at - now_s()))
        finished = True
        if self._service is not None:
            self._inbox.settle(self._tokens(self._service.hand_back(started=False)), Settlement.REQUEUE)
            finished = await _within(self._service.idle(), ends_at - now_s())
            self._inbox.settle(self._tokens(self._service.hand_back(started=True)), Settlement.REQUEUE)
        if self._outbox is not None:
            finished &= await _within(self._outbox.drained(), max(1.0, ends_at - now_s()))
        return finished

    def settle_fates(self, messages: Sequence[Message], fate: Fate) -> None:
        """Settle the requests of replies whose fate is known. To retry an undeliverable reply would help no caller."""
        self._observer.settled(FATES[fate], len(messages))
        self._settle([message.token for message in messages])

    def _requests(self, batch: Sequence[Delivery]) -> list[Request]:
        now, now_ms = self._clock.now_s(), self._clock.now_ms()
        requests: list[Request] = []
        done: list[Delivery] = []
        refusals: list[Reply] = []
        for delivery in batch:
            model = self._models[delivery.queue]
            reply_to = delivery.properties.reply_to
            if delivery.properties.type in REPLY_TYPES:  # to answer a reply could start an endless loop
                self._observer.odd(Oddity.NOT_A_REQUEST)
                done.append(delivery)
            elif reply_to and not self._policy.accepts(reply_to, delivery.properties.user_id):
                self._observer.odd(Oddity.REPLY_TO_REFUSED)
                log.warning("reply_to_refused", reply_to=reply_to[:80].decode("ascii", "backslashreplace"))
                done.append(delivery)
            else:
                try:
                    requests.append(self._intake.request(delivery, model, now, now_ms))
                except Refused as refusal:
                    refusals.append(_refusal(delivery, model, now, refusal.outcome))
                except Exception as error:
                    log.error("intake_failed", model=model.name, exc_info=error)
                    outcome = failure(Code.INTERNAL, "the responder failed on this request")
                    refusals.append(_refusal(delivery, model, now, outcome))
        if refusals:
            self.deliver(refusals)
        if done:
            self._inbox.settle(done, Settlement.ACK)
        return requests

    def deliver(self, replies: list[Reply]) -> None:
        """Send replies. For the service."""
        now = self._clock.now_s()
        for reply in replies:
            if reply.outcome.code is Code.MODEL_CRASHED:
                self._dead_letters.add(reply.request.token)
        self._send([message_of(reply, now) for reply in replies])
        # Last, because callers wait for the replies.
        self._observer.replied(replies)

    def _send(self, messages: Sequence[Message]) -> None:
        """Send messages; a request without `reply_to` is settled at once."""
        addressed = [message for message in messages if message.routing_key]
        if len(addressed) < len(messages):
            self._settle([one.token for one in messages if not one.routing_key])
        if addressed and self._outbox is not None:
            self._outbox.send(addressed)

    def _settle(self, done: list[Delivery]) -> None:
        """Acknowledge requests. One that crashed too many replicas is dead-lettered, for an operator to inspect."""
        if self._dead_letters:
            dead = [delivery for delivery in done if delivery in self._dead_letters]
            self._dead_letters.difference_update(dead)
            self._inbox.settle(dead, Settlement.DEAD_LETTER)
            done = [delivery for delivery in done if delivery not in dead]
        self._inbox.settle(done, Settlement.ACK)

    @staticmethod
    def _tokens(requests: Sequence[Request]) -> list[Delivery]:
        return [request.token for request in requests]


def _refusal(delivery: Delivery, model: Model, now: float, outcome: Outcome) -> Reply:
    """The reply to a delivery that is no valid request."""
    return Reply(Request(model, b"", b"", now, now + model.timeout_s, token=delivery), outcome, NO_STATUS)


async def _within(wait: Awaitable[None], limit_s: float) -> bool:
    """Whether a wait ended in time."""
    try:
        async with asyncio.timeout(max(0.0, limit_s)):
            await wait
    except TimeoutError:
        return False
    return True
