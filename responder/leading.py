"""What one flight does: lead or follow, call the model, hand the answer over."""

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from responder.cache import CachedAnswers, CacheRefused, CacheUnavailable, Entry, Gap, Slot
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
        number: of the flight, counted up.
        generation: of the model, when the key was looked up, or later; None when it was not.
        shared: whether others may have the answer; otherwise it is the requester's alone.
        slot: where the lease is to be: beside a value that is there, or in its place.
        renews: whether an answer that is there is not wanted.
        only_later: whether no flight counts that had begun before the request was received.
        token: of the lease that the flight holds or follows, once it is known.
        has_none: whether it turned out that there is no lease to be had.
    """

    model: ServedModel
    body: bytes
    key: Key
    fwd: str
    number: int
    generation: bytes | None
    shared: bool
    slot: Slot
    renews: bool
    only_later: bool
    token: bytes = b""
    has_none: bool = False

    @classmethod
    def of(cls, request: Request, key: Key, found: Entry | Gap | None, number: int, *, cache_up: bool) -> "Work":
        """The work for a request and what the cache had for it."""
        directives = request.directives
        replaces = isinstance(found, Entry) and directives.max_age_s is not None
        renews = directives.no_cache or replaces
        shared = cache_up and not directives.no_store
        return cls(
            request.model,
            request.body,
            key,
            fwd="bypass" if directives.no_store else "request" if renews else "miss",
            number=number,
            generation=found.generation if isinstance(found, Gap) else None,
            shared=shared,
            slot=Slot.REFRESH if replaces else Slot.VALUE,
            renews=renews,
            only_later=directives.no_cache,
            has_none=not shared,
        )

    def serves(self, found: Entry | Gap | None, flights_before: int) -> bool:
        """Whether a request may have this flight's answer, by what its look-up found.

        Not if its key was invalidated after the flight's claim. A flight that began after the look-up was sent is as
        new as that. So is one whose claim is not answered yet: both go over one connection, and replies keep their
        order. Of others the look-up must have seen the lease, in the generation in which the flight works.

        Args:
            flights_before: how many flights had begun when the look-up was sent.
        """
        if found is None or self.number > flights_before:  # None: the cache did not answer
            return True
        if self.has_none or not isinstance(found, Gap):
            return False
        return not self.token or (self.token, self.generation) == (found.token, found.generation)

    def note(self, generation: bytes, token: bytes) -> None:
        """Whose lease the flight holds or follows."""
        self.generation, self.token = generation, token


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
        # A process that dies takes all that it was working on with it; one may be the culprit. In their last try
        # suspects run one at a time: the innocent come to an end, and only the culprit is counted again.
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
        try:
            return await self._leases.acquire(
                work.key,
                work.generation,
                slot=work.slot,
                renews=work.renews,
                only_later=work.only_later,
                on_lease=work.note,
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
                self._leases.count_start(lease)

        try:
            if lease is not None and lease.attempts >= MAX_ATTEMPTS:
                log.error("input_crashes_its_process", model=work.model.name, key=work.key.name)
                outcome = failure(Code.MODEL_CRASHED, f"this input has killed its process {MAX_ATTEMPTS} times")
            else:
                suspect = lease is not None and lease.attempts >= MAX_ATTEMPTS - 1
                async with self._alone if suspect else nullcontext():
                    outcome = await work.model.answer(work.body, start)
            stored = lease is not None and await self._commit(lease, outcome)
        finally:
            if lease is not None:
                self._leases.abandon(lease)  # unless it was committed
        return replace(outcome, status=CacheStatus(fwd=work.fwd, stored=stored))

    async def _commit(self, lease: Lease, outcome: Outcome) -> bool:
        if outcome.code is not None:
            await self._leases.commit_error(lease, encode_error(outcome))
            return False
        ttl_ms = round(outcome.ttl_s * 1000 * self._ttl_factor())
        now_ms = self._answers.now_ms()
        return await self._leases.commit(
            lease, Entry(now_ms, now_ms + ttl_ms, outcome.duration_ms, outcome.body), ttl_ms
        )
