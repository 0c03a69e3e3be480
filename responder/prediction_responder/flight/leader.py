"""What one flight does: lead or follow, call the model, hand the answer over."""

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from prediction_responder.cache import CachedAnswers, CacheRefused, CacheUnavailable, Entry
from prediction_responder.flight.commit import MAX_COOL_DOWN_MS
from prediction_responder.flight.crashes import is_last_try
from prediction_responder.flight.flight import Flight
from prediction_responder.flight.freshness import hit
from prediction_responder.flight.keeper import Lease
from prediction_responder.flight.lease import Cooling, Leases, PushedError
from prediction_responder.flight.work import Work
from prediction_responder.messages import Model, Outcome, Request, decode_error, encode_error, failure
from prediction_responder.observe.logs import logger
from prediction_schemas import Code, forwarded_status

log = logger(__name__)

TTL_JITTER = (0.9, 1.1)  # what was stored together does not expire together
COOL_DOWN_MS = (250, MAX_COOL_DOWN_MS)  # after the first failure in a row, doubled by each further one up to the last
LAST_TRY_MS = 1_000  # so seldom it is asked whether an input is still suspected
COOLS = frozenset({Code.UNAVAILABLE, Code.MODEL_ERROR, Code.MODEL_OUTPUT_INVALID, Code.DEADLINE_EXCEEDED})


class Leader:
    """Brings flights to their outcomes.

    Args:
        answers: where answers are read.
        leases: who leads.
        max_stored_bytes: a larger answer is handed to those who wait, and not kept.
        ttl_factor: what each time to live is multiplied with.
    """

    def __init__(
        self,
        answers: CachedAnswers,
        leases: Leases,
        *,
        max_stored_bytes: int,
        ttl_factor: Callable[[], float] = lambda: random.uniform(*TTL_JITTER),
    ) -> None:
        self._answers = answers
        self._leases = leases
        self._max_stored_bytes = max_stored_bytes
        self._ttl_factor = ttl_factor
        # A process that dies takes all that it was working on with it; one may be the culprit. In their last try
        # suspects run one at a time: the innocent come to an end, and only the culprit is counted again.
        self._alone = asyncio.Lock()

    async def outcome(self, work: Work, flight: Flight[Request]) -> Outcome:
        """Lead or follow.

        The claim is a second look at the cache, which a race makes necessary: A misses; B, in the air already for the
        same key, stores and lands; only then does A find no flight to join and begin its own.
        """
        match await self._lease(work) if work.shared else None:
            case Entry() as entry if work.token:  # pushed, or read, after somebody else's call
                return Outcome(entry.body, entry.code, status=forwarded_status(work.fwd, collapsed=True))
            case Entry() as entry:
                return hit(entry, self._answers.now_ms())
            case PushedError(content):
                return replace(decode_error(content), status=forwarded_status(work.fwd, collapsed=True))
            case Cooling(until_ms):
                return cooling(until_ms - self._answers.now_ms())
            case lease:
                return await self._lead(work, flight, lease)

    async def refresh(self, work: Work, flight: Flight[Request]) -> Outcome | int | None:
        """Replace an answer that is still good, if nobody else does and the model has nothing better to do.

        Should somebody board meanwhile, it is work like any other.

        Returns:
            The outcome; or for how many milliseconds somebody else sees to it, or the model is not to be tried; or
            None when the model is busy.

        Raises:
            CacheUnavailable: not now.
        """
        lease = await self._leases.acquire_refresh(work.key, work.seen, work.note)
        if isinstance(lease, Lease):
            # From here to its permit nothing awaits. What may kill the process never runs for nobody.
            if flight.asked or not (work.model.is_busy or is_last_try(lease.starts)):
                return await self._lead(work, flight, lease)
            self._leases.commits.abandon(lease)
            return LAST_TRY_MS if is_last_try(lease.starts) else None
        return await self.outcome(work, flight) if flight.asked else lease

    async def _lease(self, work: Work) -> Lease | Entry | PushedError | Cooling | None:
        try:
            return await self._leases.acquire(
                work.key, work.generation, seen=work.seen, only_later=work.only_later, on_lease=work.note
            )
        except CacheUnavailable as error:
            self._answers.went_down(error)
            # A Redis that refuses to write takes no invalidation either: others may have this flight's answer.
            work.has_none = not isinstance(error, CacheRefused)
            return None

    async def _lead(self, work: Work, flight: Flight[Request], lease: Lease | None) -> Outcome:
        def start() -> None:
            flight.start()
            if lease is not None:
                self._leases.crashes.note_start(lease)

        try:
            suspect = lease is not None and is_last_try(lease.starts)
            if lease is not None and suspect and await self._leases.crashes.has_reached_limit(lease):
                log.error("input_crashes_its_process", model=work.model.name, key=work.key.name)
                outcome = failure(Code.MODEL_CRASHED, f"this input has killed its process {len(lease.starts)} times")
            else:
                async with self._alone if suspect else nullcontext():
                    outcome = await work.model.answer(work.body, start)
            stored = lease is not None and await self._commit(lease, work.model, outcome)
        finally:
            if lease is not None:
                self._leases.commits.abandon(lease)  # unless it was committed
        outcome.status = forwarded_status(work.fwd, stored=stored)
        return outcome

    async def _commit(self, lease: Lease, model: Model, outcome: Outcome) -> bool:
        """Say how it ended, and note in an error when to try again; whether it was stored."""
        if outcome.code is not None and outcome.ttl_s <= 0:
            cool_ms = cool_down_ms(lease.failures) if outcome.code in COOLS else 0
            if outcome.code is Code.UNAVAILABLE:
                outcome.retry_after_ms = max(cool_ms, outcome.retry_after_ms or 0)
            await self._leases.commits.commit_error(lease, encode_error(outcome), cool_ms)
            return False
        now_ms = self._answers.now_ms()
        # A time to live that is none stays none, and one that is above none never becomes none, or endless.
        ttl_ms = max(1, round(outcome.ttl_s * 1000 * self._ttl_factor())) if outcome.ttl_s > 0 else 0
        entry = Entry(now_ms, now_ms + ttl_ms, outcome.duration_ms, outcome.body, outcome.code)
        if len(entry.body) > self._max_stored_bytes:
            await self._leases.commits.commit_too_large(lease, entry)
            return False
        kept_ms = round(model.keep_s * 1000) if ttl_ms and outcome.code is None else 0
        return await self._leases.commits.commit(lease, entry, ttl_ms + kept_ms)


def cool_down_ms(failures: int) -> int:
    """How long a model that has failed so often before, and now again, is not tried again on the same input."""
    first_ms, last_ms = COOL_DOWN_MS
    return min(first_ms << min(failures, 10), last_ms)


def cooling(left_ms: int) -> Outcome:
    """The answer of those who ask meanwhile; clocks may differ."""
    message = "the model has failed on this input lately, and is tried again in a moment"
    return failure(Code.UNAVAILABLE, message, retry_after_ms=min(max(1, left_ms), COOL_DOWN_MS[1]))
