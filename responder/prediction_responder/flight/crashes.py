"""Inputs that crash the process which computes them.

The leader writes down that it starts the model, and its commit erases that. Starts that were never erased belong to
replicas that died meanwhile. A process that was killed from outside takes down everything it worked on, so three
deaths are proof only while no other process has died lately; otherwise it takes six.
"""

from collections.abc import Sequence

from prediction_responder.cache import CachedAnswers, CacheUnavailable, LeaseStore
from prediction_responder.flight.keeper import Lease

STARTS_KEPT_MS = 3_600_000
DEATHS_COUNT_MS = 600_000  # older deaths of other processes raise no doubt
MAX_STARTS, MAX_STARTS_IN_DOUBT = 3, 6


def is_last_try(starts: Sequence[bytes]) -> bool:
    """Whether one more death reaches the limit."""
    return len(starts) >= MAX_STARTS - 1


class Crashes:
    """Counts, per key, the replicas that died while the model ran.

    Args:
        store: where starts and deaths are written.
        answers: is told when the store cannot be reached.
        replica: this one's id.
    """

    def __init__(self, store: LeaseStore, answers: CachedAnswers, replica: bytes) -> None:
        self._store = store
        self._answers = answers
        self._replica = replica

    def note_start(self, lease: Lease) -> None:
        """The model starts under this lease: should this process die now, the next leader sees it."""
        lease.started = True
        self._store.write_starts(lease.place, (*lease.starts, self._replica), STARTS_KEPT_MS)

    def note_deaths(self, lease: Lease) -> None:
        """The replicas of earlier starts have died."""
        if lease.starts:
            self._store.write_deaths(lease.key.name, lease.starts, self._answers.now_ms())

    async def has_reached_limit(self, lease: Lease) -> bool:
        """Whether this input has crashed its process too often, as far as that can be known."""
        if len(lease.starts) < MAX_STARTS:
            return False
        if len(lease.starts) >= MAX_STARTS_IN_DOUBT:
            return True
        try:
            deaths = await self._store.deaths(lease.key.name, self._answers.now_ms() - DEATHS_COUNT_MS)
        except CacheUnavailable as error:
            self._answers.went_down(error)
            return False
        return deaths <= set(lease.starts)
