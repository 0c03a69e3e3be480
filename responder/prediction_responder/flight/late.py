"""Stale answers for requests whose deadline has passed, if they accept one then (`stale-if-error`)."""

import asyncio
from collections.abc import Callable, Sequence

from prediction_responder.cache import CachedAnswers, Entry, Gap
from prediction_responder.clock import Clock
from prediction_responder.flight.freshness import hit, is_better_than_an_error
from prediction_responder.messages import Key, Outcome, Reply, Request
from prediction_responder.observe.logs import logger

log = logger(__name__)


class LateAnswers:
    """Looks up a stale answer for each request before it is answered with an error.

    One task looks up all requests that wait, and ends when none is left.

    Args:
        answers: the cached answers.
        clock: for their ages.
        deliver: called with the replies.
    """

    def __init__(self, answers: CachedAnswers, clock: Clock, deliver: Callable[[list[Reply]], None]) -> None:
        self._answers = answers
        self._clock = clock
        self._deliver = deliver
        self._waiting: dict[Request, tuple[Key, Outcome]] = {}
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request, key: Key, outcome: Outcome) -> None:
        """Answer a request with the stale answer under its key, or else with this outcome."""
        self._waiting[request] = key, outcome
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())

    def take_back(self) -> list[Request]:
        """The requests that wait, which are not answered any more."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    async def idle(self) -> None:
        """Wait until no request waits."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _work(self) -> None:
        while self._waiting:
            asked = {request: key for request, (key, _) in self._waiting.items()}
            try:
                found = await self._answers.look_up(list(asked.values()))
            except Exception:
                log.exception("late_look_up_failed")
                found = None
            now_ms, replies = self._clock.now_ms(), []
            entries: Sequence[Entry | Gap | None] = found or [None] * len(asked)
            for request, entry in zip(asked, entries, strict=True):
                _, outcome = self._waiting.pop(request, (None, None))
                if outcome is None:  # taken back during the look-up
                    continue
                if isinstance(entry, Entry) and is_better_than_an_error(entry, request.directives, now_ms):
                    outcome = hit(entry, now_ms)
                replies.append(Reply(request, outcome, outcome.status))
            if replies:
                self._deliver(replies)
