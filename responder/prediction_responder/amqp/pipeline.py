"""The way of a request: batches from the inbox to the service, replies to the outbox, then the acknowledgement.

Every delivery is settled exactly once. It is acknowledged when the fate of its reply is known, or at once if it has no
`reply_to`; dead-lettered instead after MODEL_CRASHED; requeued when the responder stops before its work has ended.
"""

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence

from amqp_lane import Consumer, Delivery, Fate, Message, Publisher, Settlement
from prediction_responder.amqp.replies import compose, message_of
from prediction_responder.amqp.requests import Intake, ReplyPolicy
from prediction_responder.cache import CachedAnswers
from prediction_responder.flight.leader import Leader
from prediction_responder.messages import Model, Outcome, Refused, Reply, Request, failure
from prediction_responder.observe.events import Observer
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
        answers, leader, pending: see `Service`.
        intake, policy: see `prediction_responder.amqp.requests`.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, Model],
        inbox: Consumer,
        answers: CachedAnswers,
        leader: Leader,
        pending: int,
        intake: Intake,
        policy: ReplyPolicy,
        observer: Observer,
    ) -> None:
        self._models = models
        self._inbox = inbox
        self._outbox: Publisher | None = None
        self._service = Service(answers, leader, self._deliver, pending=pending, on_refresh=observer.count_refresh)
        self._dead_letters: set[Delivery] = set()
        self._intake = intake
        self._policy = policy
        self._running: asyncio.Task[None] | None = None
        self._observer = observer
        self._clock = time.monotonic  # `run` replaces it by the event loop's clock

    def __repr__(self) -> str:
        return f"<Pipeline {self._inbox!r} {self._service!r} {self._outbox!r}>"

    async def run(self, outbox: Publisher) -> None:
        """Answer requests until the inbox is stopped."""
        self._outbox = outbox
        self._running = asyncio.current_task()
        self._clock = asyncio.get_running_loop().time
        async for batch in self._inbox:
            try:
                await self._service.handle(self._requests(batch))
            except Exception:
                log.exception("batch_failed")
                self._inbox.restart("a batch failed; the broker delivers it again")

    async def drain(self, grace_s: float) -> bool:
        """Stop consuming, requeue requests whose work has not started, finish the rest. Returns whether all finished.

        Requests whose work is not done after the grace period are requeued too: another replica starts them again.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + grace_s
        await self._inbox.stop()
        if self._running is not None:  # a batch whose look-up runs starts its flights first
            await asyncio.wait({self._running}, timeout=max(0.0, ends_at - loop.time()))
        self._inbox.settle(self._tokens(self._service.hand_back(started=False)), Settlement.REQUEUE)
        finished = await _within(self._service.idle(), ends_at - loop.time())
        self._inbox.settle(self._tokens(self._service.hand_back(started=True)), Settlement.REQUEUE)
        if self._outbox is not None:
            finished &= await _within(self._outbox.drained(), max(1.0, ends_at - loop.time()))
        return finished

    def settle_fates(self, messages: Sequence[Message], fate: Fate) -> None:
        """Settle the requests of replies whose fate is known. To retry an undeliverable reply would help no caller."""
        self._observer.count_fates(FATES[fate], len(messages))
        self._settle([message.token for message in messages])

    def _requests(self, batch: Sequence[Delivery]) -> list[Request]:
        now, now_ms = self._clock(), time.time_ns() // 1_000_000
        requests: list[Request] = []
        done: list[Delivery] = []
        refusals: list[Message] = []
        for delivery in batch:
            model = self._models[delivery.queue]
            reply_to = delivery.properties.reply_to
            if delivery.properties.type in REPLY_TYPES:  # to answer a reply could start an endless loop
                self._observer.count_odd("not_a_request")
                done.append(delivery)
            elif reply_to and not self._policy.accepts(reply_to, delivery.properties.user_id):
                self._observer.count_odd("reply_to_refused")
                log.warning("reply_to_refused", reply_to=reply_to[:80].decode("ascii", "backslashreplace"))
                done.append(delivery)
            else:
                try:
                    requests.append(self._intake.request(delivery, model, now, now_ms))
                except Refused as refusal:
                    refusals.append(self._refusal(delivery, model, refusal.outcome))
                except Exception as error:
                    log.error("intake_failed", model=model.name, exc_info=error)
                    outcome = failure(Code.INTERNAL, "the responder failed on this request")
                    refusals.append(self._refusal(delivery, model, outcome))
        if refusals:
            self._send(refusals)
        if done:
            self._inbox.settle(done, Settlement.ACK)
        return requests

    def _refusal(self, delivery: Delivery, model: Model, outcome: Outcome) -> Message:
        self._observer.count_replies([(model.name, outcome.code, NO_STATUS.kind)])
        return compose(delivery, outcome, NO_STATUS, model)

    def _deliver(self, replies: list[Reply]) -> None:
        now = self._clock()
        for reply in replies:
            if reply.outcome.code is Code.MODEL_CRASHED:
                self._dead_letters.add(reply.request.token)
        self._send([message_of(reply, now) for reply in replies])
        # Last, because callers wait for the replies.
        self._observer.count_replies([(one.request.model.name, one.outcome.code, one.status.kind) for one in replies])

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


async def _within(wait: Awaitable[None], limit_s: float) -> bool:
    """Whether a wait ended in time."""
    try:
        async with asyncio.timeout(max(0.0, limit_s)):
            await wait
    except TimeoutError:
        return False
    return True
