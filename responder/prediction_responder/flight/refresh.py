"""Background refreshes: low-priority flights that replace an answer before it is missed.

A refresh begins when a request is served an answer that is stale or will be soon. It takes a permit of the model only
while one is free, there are never more refreshes than permits, and a drain ends them first. One that does not begin, or
is dropped, delays no caller: the next request for the answer begins another.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from prediction_responder.cache import CacheUnavailable
from prediction_responder.flight.flight import Flight, Flights
from prediction_responder.messages import Key, Model, Outcome, Request

if TYPE_CHECKING:
    from prediction_responder.flight.leader import Leader
    from prediction_responder.flight.work import Work

KEPT, PAUSE_MS = 4096, 1_000
NOT_DELIVERED = Outcome(b"")


class Refreshes:
    """Begins refreshes, and remembers which keys need none for a while.

    Args:
        leader: computes the outcome of a refresh.
        count: called with the model and how a refresh ended: done, failed, dropped, or elsewhere (another replica does
            it or has done it, or the model is not to be called now).
        now_ms: wall clock, in milliseconds since the Unix epoch.
    """

    def __init__(self, leader: "Leader", count: Callable[[str, str], None], now_ms: Callable[[], int]) -> None:
        self._leader = leader
        self._count = count
        self._now_ms = now_ms
        self._not_before_ms: dict[bytes, int] = {}

    def may_begin(self, model: Model, key: Key, flights: Flights[Request, Outcome]) -> bool:
        """Whether a refresh may begin now."""
        if model.is_busy or flights.background >= model.concurrency:
            return False
        return self._not_before_ms.get(key.digest, 0) <= self._now_ms() and flights.joinable(key.digest) is None

    async def run(self, work: "Work", flight: Flight[Request]) -> Outcome:
        """Run a refresh to its end. Requests that join it get its outcome."""
        ended, pause_ms = "dropped", 0
        try:
            outcome = await self._leader.refresh(work, flight)
            if isinstance(outcome, Outcome):
                ended = "failed" if outcome.code is not None else "done"
                # If nothing was stored, the next request would begin another refresh at once.
                pause_ms = 0 if outcome.status.stored else PAUSE_MS
                return outcome
            if outcome is not None:
                ended, pause_ms = "elsewhere", outcome
        except CacheUnavailable:
            pause_ms = PAUSE_MS
            if flight.asked:
                return await self._leader.outcome(work, flight)
        except asyncio.CancelledError:
            ended = ""  # `count_dropped` counts it, as it may be cancelled before its first step
            raise
        finally:
            if ended:
                self._count(work.model.name, ended)
            if pause_ms > 0:
                self._leave_alone(work.key, pause_ms)
        return NOT_DELIVERED

    def count_dropped(self, model: Model, number: int) -> None:
        """Count refreshes that were cancelled."""
        for _ in range(number):
            self._count(model.name, "dropped")

    def _leave_alone(self, key: Key, for_ms: int) -> None:
        if len(self._not_before_ms) >= KEPT:
            self._not_before_ms.clear()  # costs at most one more claim per key
        self._not_before_ms[key.digest] = self._now_ms() + for_ms
