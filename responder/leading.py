"""What one flight does: lead or follow, call the model, hand the answer over."""

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from responder.cache import CachedAnswers, CacheUnavailable, Entry, Gap, Slot
from responder.flight import Flight
from responder.freshness import hit
from responder.keeping import Lease
from responder.keys import Key
from responder.lease import Leases, PushedError
from responder.logs import logger
from responder.messages import Outcome, Request, decode_error, encode_error
from responder.model import ServedModel, failure
from schemas import CacheStatus, Code

log = logger(__name__)

MAX_ATTEMPTS = 3
TTL_JITTER = (0.9, 1.1)  # what was stored together does not expire together


@dataclass(slots=True)
class Work:
    """What one flight is to do. It holds the input, so that no waiter has to.

    Args:
        fwd: why the cache did not answer; a word of RFC 9211 section 2.2.
        generation: of the model, when the key was looked up; None when it was not.
        shared: whether others may have the answer; otherwise it is the requester's alone.
        forced: whether an answer that is there is not wanted.
        only_later: whether no flight counts that had begun before the request was received.
        token: of the lease that the flight holds or follows, once it is known.
    """

    model: ServedModel
    body: bytes
    key: Key
    fwd: str
    generation: bytes | None
    shared: bool
    forced: bool
    only_later: bool
    token: bytes = b""

    @classmethod
    def of(cls, request: Request, key: Key, found: Entry | Gap | None, *, cache_up: bool) -> "Work":
        """The work for a request and what the cache had for it."""
        directives = request.directives
        forced = directives.no_cache or (isinstance(found, Entry) and directives.max_age_s is not None)
        return cls(
            request.model,
            request.body,
            key,
            fwd="bypass" if directives.no_store else "request" if forced else "miss",
            generation=found.generation if isinstance(found, Gap) else None,
            shared=cache_up and not directives.no_store,
            forced=forced,
            only_later=directives.no_cache,
        )

    def is_older_than(self, found: Entry | Gap | None) -> bool:
        """Whether what the cache has now shows that this work was overtaken: by an invalidation, or by another lease.

        What a look-up found is newer than every claim whose reply came before it: both went over one connection.
        """
        if not isinstance(found, Gap) or not self.shared:
            return False
        if self.generation is not None and found.generation is not None and self.generation != found.generation:
            return True
        return bool(self.token and found.token and self.token != found.token)

    def note(self, token: bytes) -> None:
        """Whose lease the flight holds or follows."""
        self.token = token


class Leading:
    """Brings flights to their outcomes.

    Args:
        answers: where answers are read.
        leases: who leads.
        ttl_factor: what each time to live is multiplied with.
    """

    def __init__(
        self,
        answers: CachedAnswers,
        leases: Leases,
        ttl_factor: Callable[[], float] = lambda: random.uniform(*TTL_JITTER),
    ) -> None:
        self._answers = answers
        self._leases = leases
        self._ttl_factor = ttl_factor
        # A process that dies takes all that it was working on with it. One of those is the culprit; run one at a time,
        # the others come to an end, and only the culprit is counted again.
        self._alone = asyncio.Lock()

    async def outcome(self, work: Work, flight: Flight[Request]) -> Outcome:
        """Lead or follow.

        The claim is a second look at the cache, which a race makes necessary: A misses; B, in the air already for the
        same key, stores and lands; only then does A find no flight to join and begin its own.
        """
        lease = await self._lease(work) if work.shared else None
        if isinstance(lease, Entry):
            if work.token:  # pushed, or read, after somebody else's call
                return Outcome(lease.body, status=CacheStatus(fwd=work.fwd, collapsed=True))
            return hit(lease, self._answers.now_ms())
        if isinstance(lease, PushedError):
            return replace(decode_error(lease.content), status=CacheStatus(fwd=work.fwd, collapsed=True))
        return await self._lead(work, flight, lease)

    async def _lease(self, work: Work) -> Lease | Entry | PushedError | None:
        slot = Slot.REFRESH if work.forced else Slot.VALUE
        try:
            return await self._leases.acquire(
                work.key, work.generation, slot=slot, only_later=work.only_later, on_token=work.note
            )
        except CacheUnavailable as error:
            self._answers.went_down(error)
            return None

    async def _lead(self, work: Work, flight: Flight[Request], lease: Lease | None) -> Outcome:
        ended = False

        def start() -> None:
            flight.start()
            if lease is not None:
                self._leases.count_start(lease)

        try:
            if lease is not None and lease.attempts >= MAX_ATTEMPTS:
                log.error("input_crashes_its_process", model=work.model.name, key=work.key.name)
                outcome = failure(Code.MODEL_CRASHED, f"this input has killed its process {MAX_ATTEMPTS} times")
            else:
                async with self._alone if lease is not None and lease.attempts else nullcontext():
                    outcome = await work.model.answer(work.body, start)
            outcome = replace(outcome, status=CacheStatus(fwd=work.fwd))
            ended = True
        finally:
            if lease is not None and not ended:
                self._leases.abandon(lease)
        if lease is None:
            return outcome
        if outcome.code is not None:
            crashes = outcome.code is Code.MODEL_CRASHED
            await self._leases.commit_error(lease, encode_error(outcome), clear_attempts=not crashes)
            return outcome
        ttl_ms = round(outcome.ttl_s * 1000 * self._ttl_factor())
        now_ms = self._answers.now_ms()
        entry = Entry(now_ms, now_ms + ttl_ms, outcome.duration_ms, outcome.body)
        stored = await self._leases.commit(lease, entry, ttl_ms)
        return replace(outcome, status=CacheStatus(fwd=work.fwd, stored=stored))
