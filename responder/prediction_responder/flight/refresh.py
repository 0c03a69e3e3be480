"""Background refreshes: low-priority flights that replace an answer before it is missed.

A refresh begins when a request is served an answer that is stale or will be soon. It takes a permit of the model only
while one is free, there are never more refreshes than permits, and a drain ends them first. One that does not begin, or
is dropped, delays no caller: the next request for the answer begins another.
"""

import asyncio
from typing import TYPE_CHECKING

from prediction_responder.cache import CacheUnavailable
from prediction_responder.clock import Clock
from prediction_responder.flight.flight import Flight, Flights
from prediction_responder.flight.work import Work
from prediction_responder.messages import Key, Model, Outcome, Request
from prediction_responder.observe.events import Observer, Refreshed

if TYPE_CHECKING:
    from prediction_responder.flight.leader import Leader

KEPT, PAUSE_MS = 4096, 1_000
NOT_DELIVERED = Outcome(b"")


class Refreshes:
    """Begins refreshes, and remembers which keys need none for a while.

    Args:
        leader: computes the outcome of a refresh.
        clock: for the pauses.
        observer: is told how each refresh ended.
    """

    def __init__(self, leader: "Leader", clock: Clock, observer: Observer) -> None:
        self._leader = leader
        self._clock = clock
        self._observer = observer
        self._not_before_ms: dict[bytes, int] = {}

    def may_begin(self, model: Model, key: Key, flights: Flights[Request, Work, Outcome]) -> bool:
        """Whether a refresh may begin now."""
        if model.is_busy or flights.background >= model.concurrency:
            return False
        return self._not_before_ms.get(key.digest, 0) <= self._clock.now_ms() and flights.joinable(key.digest) is None

    async def run(self, flight: Flight[Request, Work]) -> Outcome:
        """Run a refresh to its end. Requests that join it get its outcome."""
        work, pause_ms = flight.work, 0
        ended: Refreshed | None = Refreshed.DROPPED
        try:
            outcome = await self._leader.refresh(flight)
            if isinstance(outcome, Outcome):
                ended = Refreshed.DONE if outcome.code is None else Refreshed.FAILED
                # If nothing was stored, the next request would begin another refresh at once.
                pause_ms = 0 if outcome.status.stored else PAUSE_MS
                return outcome
            if outcome is not None:
                ended, pause_ms = Refreshed.ELSEWHERE, outcome
        except CacheUnavailable:
            pause_ms = PAUSE_MS
            if flight.asked:
                return await self._leader.outcome(flight)
        except asyncio.CancelledError:
            ended = None  # `count_dropped` counts it, as it may be cancelled before its first step
            raise
        finally:
            if ended:
                self._observer.refreshed(work.model.name, ended)
            if pause_ms > 0:
                self._leave_alone(work.key, pause_ms)
        return NOT_DELIVERED

    def count_dropped(self, model: Model, number: int) -> None:
        """Count refreshes that were cancelled."""
        for _ in range(number):
            self._observer.refreshed(model.name, Refreshed.DROPPED)

    def _leave_alone(self, key: Key, for_ms: int) -> None:
        if len(self._not_before_ms) >= KEPT:
            self._not_before_ms.clear()  # costs at most one more claim per key
        self._not_before_ms[key.digest] = self._clock.now_ms() + for_ms
