"""What one flight does: lead or follow, call the model, commit the outcome."""

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from prediction_responder.cache import CachedAnswers, CacheRefused, CacheUnavailable, Entry
from prediction_responder.clock import Clock
from prediction_responder.flight.commit import MAX_COOL_DOWN_MS, Cooling
from prediction_responder.flight.crashes import is_last_try
from prediction_responder.flight.flight import Flight
from prediction_responder.flight.follower import PushedError
from prediction_responder.flight.freshness import hit
from prediction_responder.flight.keeper import Lease
from prediction_responder.flight.lease import Leases
from prediction_responder.flight.work import Work
from prediction_responder.messages import Model, Outcome, Request, decode_error, encode_error, failure
from prediction_responder.observe.events import NOBODY, Call, Observer
from prediction_responder.observe.logs import logger
from prediction_schemas import Code, forwarded_status

log = logger(__name__)

TTL_JITTER = (0.9, 1.1)  # answers that were stored together do not expire together
COOL_DOWN_MS = (250, MAX_COOL_DOWN_MS)  # the first, and the longest: each further failure in a row doubles it
LAST_TRY_MS = 1_000  # the pause between refreshes of an input that may crash the process
COOLS = frozenset({Code.UNAVAILABLE, Code.MODEL_ERROR, Code.MODEL_OUTPUT_INVALID, Code.DEADLINE_EXCEEDED})


class Leader:
    """Computes the outcome of a flight.

    Args:
        answers: the cached answers.
        leases: decide which replica leads.
        clock: for ages and cool-downs.
        observer: is told when the model starts.
        max_stored_bytes: a larger answer is pushed to the followers, but not kept.
        ttl_factor: called for each TTL, which is multiplied by the result.
    """

    def __init__(
        self,
        answers: CachedAnswers,
        leases: Leases,
        clock: Clock,
        *,
        observer: Observer = NOBODY,
        max_stored_bytes: int,
        ttl_factor: Callable[[], float] = lambda: random.uniform(*TTL_JITTER),
    ) -> None:
        self._answers = answers
        self._leases = leases
        self._clock = clock
        self._observer = observer
        self._max_stored_bytes = max_stored_bytes
        self._ttl_factor = ttl_factor
        # A process that dies takes down everything it works on, though one input may have crashed it. So inputs in
        # their last try run one at a time: the others end and lose their count, and only that input is counted again.
        self._alone = asyncio.Lock()

    async def outcome(self, flight: Flight[Request, Work]) -> Outcome:
        """Lead or follow.

        The claim is a second look at the cache, which a race makes necessary: A misses; B, a flight of the same key,
        stores its answer and ends; only then does A look for a flight to join, find none and begin its own.
        """
        work = flight.work
        match await self._lease(work) if work.shared else None:
            case Entry() as entry if work.token:  # pushed, or read, after another replica's call
                return Outcome(entry.body, entry.code, status=forwarded_status(work.fwd, collapsed=True))
            case Entry() as entry:
                return hit(entry, self._clock.now_ms())
            case PushedError(content):
                return replace(decode_error(content), status=forwarded_status(work.fwd, collapsed=True))
            case Cooling(until_ms):
                return cool_down_outcome(until_ms - self._clock.now_ms())
            case lease:
                return await self._lead(flight, lease)

    async def refresh(self, flight: Flight[Request, Work]) -> Outcome | int | None:
        """Replace an answer that is still good, unless another replica does or the model is busy.

        If a request joins the flight meanwhile, it becomes work like any other.

        Returns:
            The outcome; or for how many milliseconds no refresh is needed or allowed, because another replica does it,
            or the model cools down, or the input may crash the process; or None when the model is busy.

        Raises:
            CacheUnavailable: the cache cannot be used now.
        """
        work = flight.work
        lease = await self._leases.acquire_refresh(work.key, work.seen, work)
        if isinstance(lease, Lease):
            # From here to the model's permit nothing awaits. Without a caller, an input in its last try never runs.
            if flight.asked or not (work.model.is_busy or is_last_try(lease.starts)):
                return await self._lead(flight, lease)
            self._leases.commits.abandon(lease)
            return LAST_TRY_MS if is_last_try(lease.starts) else None
        return await self.outcome(flight) if flight.asked else lease

    async def _lease(self, work: Work) -> Lease | Entry | PushedError | Cooling | None:
        try:
            return await self._leases.acquire(
                work.key, work.generation, work, seen=work.seen, only_later=work.only_later
            )
        except CacheUnavailable as error:
            self._answers.note_outage(error)
            # A Redis that refuses writes accepts no invalidation either, so later requests may share this answer.
            work.has_none = not isinstance(error, CacheRefused)
            work.asked = 0  # no reply is to come
            return None

    async def _lead(self, flight: Flight[Request, Work], lease: Lease | None) -> Outcome:
        work, call = flight.work, None

        def start() -> None:
            nonlocal call
            flight.start()
            call = Call(work.number, work.model.name, work.key, tuple(flight.waiters))
            self._observer.call_started(call)
            if lease is not None:
                self._leases.crashes.note_start(lease)

        try:
            last_try = lease is not None and is_last_try(lease.starts)
            if lease is not None and last_try and await self._leases.crashes.has_reached_limit(lease):
                log.error("input_crashes_its_process", model=work.model.name, key=work.key.name)
                outcome = failure(Code.MODEL_CRASHED, f"this input has killed its process {len(lease.starts)} times")
            else:
                async with self._alone if last_try else nullcontext():
                    outcome = await work.model.answer(work.input, start)
                if call is not None:
                    self._observer.call_ended(call, outcome)
            stored = lease is not None and await self._commit(lease, work.model, outcome)
        finally:
            if lease is not None:
                self._leases.commits.abandon(lease)  # unless it was committed
        outcome.status = forwarded_status(work.fwd, stored=stored)
        return outcome

    async def _commit(self, lease: Lease, model: Model, outcome: Outcome) -> bool:
        """Commit the outcome; an error notes when to try again. Returns whether it was stored."""
        if outcome.code is not None and outcome.ttl_s <= 0:
            cool_ms = cool_down_ms(lease.failures) if outcome.code in COOLS else 0
            if outcome.code is Code.UNAVAILABLE:
                outcome.retry_after_ms = max(cool_ms, outcome.retry_after_ms or 0)
            await self._leases.commits.commit_error(lease, encode_error(outcome), cool_ms)
            return False
        now_ms = self._clock.now_ms()
        # A TTL of 0 stays 0. A positive one never becomes 0, nor endless.
        ttl_ms = max(1, round(outcome.ttl_s * 1000 * self._ttl_factor())) if outcome.ttl_s > 0 else 0
        entry = Entry(now_ms, now_ms + ttl_ms, outcome.duration_ms, outcome.body, outcome.code)
        if len(entry.body) > self._max_stored_bytes:
            await self._leases.commits.commit_too_large(lease, entry)
            return False
        kept_ms = round(model.keep_s * 1000) if ttl_ms and outcome.code is None else 0
        return await self._leases.commits.commit(lease, entry, ttl_ms + kept_ms)


def cool_down_ms(failures: int) -> int:
    """How long the model is not called again on an input, after so many failures in a row and now another one."""
    first_ms, last_ms = COOL_DOWN_MS
    return min(first_ms << min(failures, 10), last_ms)


def cool_down_outcome(left_ms: int) -> Outcome:
    """The outcome of a request during a cool-down. The wait is bounded, because clocks may differ."""
    message = "the model failed on this input recently and is not called during the cool-down"
    return failure(Code.UNAVAILABLE, message, retry_after_ms=min(max(1, left_ms), COOL_DOWN_MS[1]))
