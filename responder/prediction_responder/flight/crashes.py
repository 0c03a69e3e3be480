"""Crash counts: which inputs crash the process that computes them.

The leader records that it starts the model, and its commit erases that. Starts that remain belong to replicas that
died. A process that is killed from outside also leaves the starts of everything it worked on, so three deaths are proof
only while no other process has died lately; otherwise it takes six.
"""

from collections.abc import Sequence

from prediction_responder.cache import CachedAnswers, CacheUnavailable, LeaseStore
from prediction_responder.cache.value import start_id
from prediction_responder.clock import Clock
from prediction_responder.flight.keeper import Lease

STARTS_KEPT_MS = 3_600_000
DEATHS_COUNT_MS = 600_000  # older deaths of other replicas do not count
MAX_STARTS, MAX_STARTS_IN_DOUBT = 3, 6


def is_last_try(starts: Sequence[bytes]) -> bool:
    """Whether one more death reaches the limit."""
    return len(starts) >= MAX_STARTS - 1


class Crashes:
    """Counts, per key, the replicas that died while the model ran.

    Args:
        store: where starts and deaths are written.
        answers: is told when the store cannot be reached.
        replica: the id of this replica.
        clock: for the times of deaths.
    """

    def __init__(self, store: LeaseStore, answers: CachedAnswers, replica: bytes, clock: Clock) -> None:
        self._clock = clock
        self._store = store
        self._answers = answers
        self._start = start_id(replica)

    def note_start(self, lease: Lease) -> None:
        """Record that the model starts under this lease: if this process dies now, the next leader sees it."""
        lease.started = True
        self._store.write_starts(lease.place, (*lease.starts, self._start), STARTS_KEPT_MS)

    def note_deaths(self, lease: Lease) -> None:
        """Record that the replicas of earlier starts have died."""
        if lease.starts:
            self._store.write_deaths(lease.key.name, lease.starts, self._clock.now_ms())

    async def has_reached_limit(self, lease: Lease) -> bool:
        """Whether this input has crashed too many replicas; False when other deaths matter and cannot be read."""
        if len(lease.starts) < MAX_STARTS:
            return False
        if len(lease.starts) >= MAX_STARTS_IN_DOUBT:
            return True
        try:
            deaths = await self._store.deaths(lease.key.name, self._clock.now_ms() - DEATHS_COUNT_MS)
        except CacheUnavailable as error:
            self._answers.note_outage(error)
            return False
        return deaths <= set(lease.starts)
