"""Answers batches of requests. It knows neither AMQP nor Redis.

One look-up answers the cached keys of a batch. Each other key gets one flight, whose outcome answers all requests that
wait for it. A fault of a request or of the model is a reply, never an exception.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from prediction_responder.cache import CachedAnswers, Entry, Gap
from prediction_responder.clock import Clock
from prediction_responder.flight.flight import Flight, Flights
from prediction_responder.flight.freshness import FAILURES, hit, is_better_than_an_error, is_usable, wants_refresh
from prediction_responder.flight.late import LateAnswers
from prediction_responder.flight.leader import Leader, cool_down_outcome
from prediction_responder.flight.refresh import Refreshes
from prediction_responder.flight.work import Work
from prediction_responder.messages import Key, Model, Outcome, Refused, Reply, Request, failure
from prediction_responder.observe.events import NOBODY, Observer
from prediction_responder.observe.logs import logger
from prediction_schemas import NO_DIRECTIVES, NO_STATUS, Code, forwarded_status

log = logger(__name__)


class Service:
    """Answers requests.

    Args:
        answers: the cached answers.
        leader: computes the outcome of a flight.
        deliver: called synchronously with each list of replies as soon as it is known; each request gets one reply.
        clock: for deadlines and ages.
        pending: how many distinct misses of one model may be in flight; more get 429 RESOURCE_EXHAUSTED.
        observer: is told of refreshes.
    """

    def __init__(
        self,
        answers: CachedAnswers,
        leader: Leader,
        deliver: Callable[[list[Reply]], None],
        clock: Clock,
        *,
        pending: int,
        observer: Observer = NOBODY,
    ) -> None:
        self._answers = answers
        self._leader = leader
        self._deliver = deliver
        self._clock = clock
        self._pending = pending
        self._refreshes = Refreshes(leader, clock, observer)
        self._late = LateAnswers(answers, clock, deliver)
        self._flights: defaultdict[Model, Flights[Request, Work, Outcome]] = defaultdict(
            lambda: Flights(self._run, self._finish, clock)
        )

    def __repr__(self) -> str:
        return f"<Service {dict(self._flights)!r}>"

    async def handle(self, batch: Sequence[Request]) -> None:
        """Answer what is cached, and begin or join flights for the rest. Returns before those flights end."""
        keyed, replies = self._identify(batch)
        read = [key for request, key in keyed if not request.directives.no_cache]
        number = self._answers.next_number()
        looked_up = await self._answers.look_up(read)
        found = iter(looked_up if looked_up is not None else [None] * len(read))
        now_ms = self._clock.now_ms()
        changed: list[Request] = []
        for request, key in keyed:
            entry = UNKNOWN if request.directives.no_cache else next(found)
            try:
                outcome = self._answer(request, key, entry, number, now_ms)
            except _Changed:
                changed.append(request)
                continue
            except Refused as refusal:
                outcome = refusal.outcome
            if outcome is not None:
                replies.append(Reply(request, outcome, outcome.status))
        if replies:
            self._deliver(replies)
        if changed:
            await self.handle(changed)

    @staticmethod
    def _identify(batch: Sequence[Request]) -> tuple[list[tuple[Request, Key]], list[Reply]]:
        """The requests of a batch with their keys, and the replies to those that have none."""
        keyed: list[tuple[Request, Key]] = []
        replies: list[Reply] = []
        for request in batch:
            try:
                if request.deadline <= request.received_at:
                    raise Refused(Code.DEADLINE_EXCEEDED, "the deadline had passed when the request was received")
                keyed.append((request, request.model.key_of(request)))
            except Refused as refusal:
                replies.append(Reply(request, refusal.outcome, NO_STATUS))
            except BaseException as error:  # nothing awaits here, so it is no cancellation of ours
                log.error("key_failed", model=request.model.name, exc_info=error)
                failed = failure(Code.INTERNAL, "the responder failed on this request")
                replies.append(Reply(request, failed, NO_STATUS))
        return keyed, replies

    def _answer(
        self, request: Request, key: Key, found: Entry | Gap | None, look_up: int, now_ms: int
    ) -> Outcome | None:
        """A usable answer that was found, or an outcome instead of a flight; None if a flight will answer.

        Raises:
            _Changed: the request has another key by now.
            Refused: its input is not valid any more.
        """
        if isinstance(found, Entry) and is_usable(found, request.directives, now_ms, request.model.stale_s):
            if wants_refresh(found, now_ms):
                self._refresh(request, key, found)
            return hit(found, now_ms)
        return self._begin_or_join(request, key, found, look_up, now_ms)

    def hand_back(self, *, started: bool) -> list[Request]:
        """End the flights whose model has not started, or all if `started`, and return their requests unanswered.

        Background refreshes end first.
        """
        for model, flights in self._flights.items():
            self._refreshes.count_dropped(model, flights.drop_background())
        requests = [one for flights in self._flights.values() for one in flights.take_back(started=started)]
        requests += self._late.take_back()
        for request in requests:
            _stop_timer(request)
        return requests

    async def idle(self) -> None:
        """Wait until no flight is in progress."""
        for flights in list(self._flights.values()):
            await flights.idle()
        await self._late.idle()

    def _refresh(self, request: Request, key: Key, entry: Entry) -> None:
        """Begin a refresh of an answer that a request was served, unless its directives forbid that."""
        if request.directives.only_if_cached or request.directives.no_store:
            return
        flights = self._flights[request.model]
        if self._refreshes.may_begin(request.model, key, flights):
            if not request.model.confirm(request, key):
                raise _Changed
            flights.begin(key.digest, None, Work.for_refresh(request, key, entry, self._answers.next_number()))

    def _begin_or_join(
        self, request: Request, key: Key, found: Entry | Gap | None, look_up: int, now_ms: int
    ) -> Outcome | None:
        """Add a request to a flight, joined or new; or return an outcome instead."""
        directives = request.directives
        if directives.only_if_cached:
            return failure(Code.CACHE_MISS, "only-if-cached, and nothing usable is cached")
        forced = False
        if isinstance(found, Entry):
            forced = is_usable(found, NO_DIRECTIVES, now_ms, request.model.stale_s)
        elif found is not None and found.cools_until_ms is not None:
            return cool_down_outcome(found.cools_until_ms - now_ms)
        flights = self._flights[request.model]
        not_before = request.received_at if directives.no_cache else 0.0
        flight = None if directives.no_store else flights.joinable(key.digest, not_before)
        if flight is not None and not self._may_join(request, flight, found, look_up):
            flight = None
        if flight is not None:
            flights.join(flight, request)
        elif len(flights) >= self._pending:
            if isinstance(found, Entry) and is_better_than_an_error(found, directives, now_ms):
                return hit(found, now_ms)
            retry_after_ms = request.model.retry_after_ms(len(flights))
            return failure(Code.RESOURCE_EXHAUSTED, "too many requests are waiting", retry_after_ms=retry_after_ms)
        else:
            if not request.model.confirm(request, key):
                raise _Changed
            work = Work.of(request, key, found, self._answers.next_number(), forced=forced)
            flight = flights.begin(object() if directives.no_store else key.digest, request, work)
        request.body, request.value = b"", None  # the flight has them
        expire = partial(self._expire, flights, flight, request, key)
        request.timer = asyncio.get_running_loop().call_at(request.deadline, expire)
        return None

    @staticmethod
    def _may_join(request: Request, flight: Flight[Request, Work], found: Entry | Gap | None, look_up: int) -> bool:
        work = flight.work
        if not work.serves(found, look_up):
            return False
        # Without `only_later`, the flight may take the result of a call that another replica began earlier.
        return work.only_later or not request.directives.no_cache

    async def _run(self, flight: Flight[Request, Work]) -> Outcome:
        """Do a flight's work. If it fails, look up the old answer for waiters that accept one (`stale-if-error`)."""
        work = flight.work
        ended = await (self._refreshes.run(flight) if work.refreshes else self._leader.outcome(flight))
        if ended.code in FAILURES and any(one.directives.stale_if_error_s is not None for one in flight.waiters):
            work.kept = await self._answers.entry(work.key)
        return ended

    def _expire(
        self,
        flights: Flights[Request, Work, Outcome],
        flight: Flight[Request, Work],
        request: Request,
        key: Key,
    ) -> None:
        flights.leave(flight, request)
        outcome = failure(Code.DEADLINE_EXCEEDED, "the deadline passed before there was an answer")
        if request.directives.stale_if_error_s is None:
            self._deliver([Reply(request, outcome, outcome.status)])
        else:
            self._late.add(request, key, outcome)

    def _finish(self, flight: Flight[Request, Work], outcome: Outcome | None, error: Exception | None) -> None:
        if outcome is None:
            log.error("flight_failed", exc_info=error)
            outcome = failure(Code.INTERNAL, "the responder failed on this request")
        own = outcome.status
        joined = own if own.hit or own.fwd is None else forwarded_status(own.fwd, collapsed=True)
        kept = flight.work.kept
        now_ms = self._clock.now_ms() if kept is not None else 0
        replies = []
        for request in flight.waiters:
            _stop_timer(request)
            if kept is not None and is_better_than_an_error(kept, request.directives, now_ms):
                instead = hit(kept, now_ms)
                replies.append(Reply(request, instead, instead.status))
            else:
                replies.append(Reply(request, outcome, own if request is flight.leader else joined))
        if replies:
            self._deliver(replies)


UNKNOWN = Gap(None)


class _Changed(Exception):
    """The input of a request, whose body was seen before, is another one by now: it has another key."""


def _stop_timer(request: Request) -> None:
    if request.timer is not None:
        request.timer.cancel()
        request.timer = None
